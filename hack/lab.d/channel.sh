# shellcheck shell=bash
# Talking to sockets: lines out, lines in, never longer than allowed.

ONCE=3600000

# converse SOCKET SECONDS LAST EVERY LINE: sends LINE, again every EVERY
# milliseconds, and prints what comes until a line matches the regex LAST.
# 0: it came. 124: it did not come in time. 1: nobody listens.
converse() (
    # A peer that goes away must not take us along.
    trap '' PIPE
    local socket=$1 last=$3 every=$4 line=$5 answer='' piece wait
    local deadline=$(($(now_ms) + $2 * 1000)) again=0
    coproc PEER { exec socat -t 0 - "UNIX-CONNECT:$socket" 2>/dev/null; }
    # bash forgets both the moment the peer ends.
    local peer=$PEER_PID to from
    exec {to}>&"${PEER[1]}" {from}<&"${PEER[0]}"
    trap 'kill "$peer" 2>/dev/null || true' EXIT
    while [ "$(now_ms)" -lt "$deadline" ]; do
        if [ "$(now_ms)" -ge "$again" ]; then
            printf '%s\n' "$line" 1>&"$to" 2>/dev/null || return 1
            again=$(($(now_ms) + every))
        fi
        wait=0
        IFS= read -r -t 0.2 piece <&"$from" || wait=$?
        # A line may come in pieces, with a pause between them.
        answer+=$piece
        [ "$wait" -le 128 ] || continue
        [ "$wait" -eq 0 ] || return 1
        printf '%s\n' "${answer%$'\r'}"
        [[ ! $answer =~ $last ]] || return 0
        answer=
    done
    return 124
)

now_ms() {
    local now_us=${EPOCHREALTIME/[.,]/}
    echo "${now_us%???}"
}

# in_guest SECONDS COMMAND...: runs it by the guest's shell, prints its output,
# returns its status; 124 if there was no answer.
in_guest() {
    local seconds=$1 id=$RANDOM$RANDOM request reply status=0
    shift
    request=$(printf '%s' "$*" | base64 -w 0)
    # More would not fit the terminal's buffer in the guest at once.
    [ ${#request} -le 3500 ] || die "a command for the guest may have 2600 bytes at most: put it in pieces"
    # The channel serves one at a time; others wait as long as we may take.
    reply=$({
        flock -w $((seconds + 5)) 9 || exit 124
        converse "$LAB_GUEST/lab.sock" "$((seconds + 2))" "^end $id " "${RESEND_MS:-$ONCE}" \
            $'\n'"run $id $seconds $request ."
    } 9>"$LAB_GUEST/lab.lock") || status=$?
    [ "$status" -eq 0 ] || return 124
    sed -n "s/^out $id //p" <<<"$reply" | base64 -d
    return "$(sed -n "s/^end $id //p" <<<"$reply" | tail -n 1)"
}

# wait_until SECONDS COMMAND...: tries it until it succeeds.
wait_until() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        [ "$(now_ms)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}
