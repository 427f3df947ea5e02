#compdef cms-oauth
# Completions of cms-oauth for zsh. The accounts are those of the running daemon: `cms` asks it, where it is installed.

_cms_oauth_accounts() {
    local -a accounts
    accounts=(${(f)"$(COMP_WORDS='cms refresh ' COMP_CWORD=2 _CMS_COMPLETE=bash_complete cms 2>/dev/null | sed -n 's/^plain,//p')"})
    compadd -a accounts
}

_arguments \
    '--user=[the account]:account:_cms_oauth_accounts' \
    '--cms_sock=[the socket of the daemon]:socket:_files' \
    '--proto=[what the token is for]:protocol:(SMTP IMAP POP)' \
    '--output=[the form to print]:form:(xoauth2 xoauth2-b64 oauthbearer oauthbearer-b64 token json)' \
    '--no_newline[print no newline after it]' \
    '--rejected[read a refused token from standard input, print another one]' \
    '--test-smtp=[log in there over SMTP]:host:_hosts' \
    '--test-imap=[log in there, and select INBOX]:host:_hosts' \
    '--test-pop=[log in there, and count the mail]:host:_hosts' \
    '--version[show the version and exit]' \
    '--help[show the options and exit]'
