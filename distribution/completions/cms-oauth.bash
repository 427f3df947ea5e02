# Completions of cms-oauth for bash. The accounts are those of the running daemon: `cms` asks it, where it is installed.

_cms_oauth() {
    local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} words
    # bash cuts --option=value at the sign.
    if [[ $current == '=' ]]; then
        current=''
    elif [[ $option == '=' ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $option in
    --user)
        words=$(COMP_WORDS='cms refresh ' COMP_CWORD=2 _CMS_COMPLETE=bash_complete cms 2>/dev/null | sed -n 's/^plain,//p')
        ;;
    --cms[-_]sock)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --proto) words='SMTP IMAP POP' ;;
    --output) words='xoauth2 xoauth2-b64 oauthbearer oauthbearer-b64 token json' ;;
    --test[-_]*) return ;;
    *)
        words='--user= --cms_sock= --proto= --output= --no_newline --rejected --test-smtp= --test-imap= --test-pop= --version --help'
        compopt -o nospace
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    # What takes no value is a whole word.
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *= ]]; then
        compopt +o nospace
    fi
}

complete -F _cms_oauth cms-oauth
