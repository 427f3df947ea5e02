# Completions of cms-oauth for fish. The accounts are those of the running daemon: `cms` asks it, where it is installed.

function __cms_oauth_accounts
    env COMP_WORDS='cms refresh ' COMP_CWORD=2 _CMS_COMPLETE=bash_complete cms 2>/dev/null | string replace --regex --filter '^plain,' ''
end

complete -c cms-oauth -f
complete -c cms-oauth -l user -x -a '(__cms_oauth_accounts)' -d 'the account'
complete -c cms-oauth -l cms_sock -r -F -d 'the socket of the daemon'
complete -c cms-oauth -l proto -x -a 'SMTP IMAP POP' -d 'what the token is for'
complete -c cms-oauth -l output -x -a 'xoauth2 xoauth2-b64 oauthbearer oauthbearer-b64 token json' -d 'the form to print'
complete -c cms-oauth -l no_newline -d 'print no newline after it'
complete -c cms-oauth -l rejected -d 'read a refused token from standard input, print another one'
complete -c cms-oauth -l test-smtp -x -d 'log in there over SMTP'
complete -c cms-oauth -l test-imap -x -d 'log in there, and select INBOX'
complete -c cms-oauth -l test-pop -x -d 'log in there, and count the mail'
complete -c cms-oauth -l version -d 'show the version and exit'
complete -c cms-oauth -l help -d 'show the options and exit'
