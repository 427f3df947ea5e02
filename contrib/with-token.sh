# with-token.sh: run curl with a token from cms. Adjust both addresses, and begin a script with `. ./with-token.sh`.
#
#   with_token PROTOCOL CURL-ARGUMENTS...    for example: with_token IMAP imaps://outlook.office365.com/
with_token() {
    protocol=$1; shift
    token=$(cms-oauth --user=user@domain.com --proto="$protocol" --output=token) || return
    printf 'user = "user@domain.com"\noauth2-bearer = "%s"\n' "$token" | curl --silent --show-error --config - "$@"
}
