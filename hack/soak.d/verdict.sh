# shellcheck shell=bash
# shellcheck disable=SC2154  # set by hack/soak
# What must hold in the end, and what is told of the time.

wrong=()

note_wrong() {
    tell "WRONG: $1"
    wrong+=("$1")
}

# zero WHAT COUNT
zero() { [ "$2" -eq 0 ] || note_wrong "$1: $2"; }

ask_controller() { target/debug/lifesign-controller "$@" --config "$place/controller.yaml"; }

# count PATTERN FILE: lines with it; there are none where there is no file.
count() { cat "$2" 2>/dev/null | grep -c -- "$1" || true; }

metric() {
    curl -sf -m 5 "http://127.0.0.1:$agent_http/metrics" |
        awk -v name="lifesign_$1" 'index($1, name) == 1 { sum += $2 } END { print sum + 0 }'
}

judge_calm() {
    note_size end
    # A line being written is no line yet.
    cp "$place/agent.log" "$place/calm.log"
    summary
    zero 'times that the agent declared an app failed' "$(count 'has failed' "$place/calm.log")"
    zero 'looks at the page of the agent that found an app failed' "$(count '"state":"failed"' "$place/states")"
    zero 'incidents that the controller knows' "$(ask_controller incidents --json | grep -c '"incident":' || true)"
    zero 'incidents in the ledger' "$(count '"incident":' "$place/state/incidents.json")"
    zero 'incidents that the agent counted' "$(metric incidents)"
    zero 'parcels in the spool' "$(find "$place/state/spool" -name '*.parcel' | wc -l)"
    judge_rounds
    [ "$kib_end" -le $((kib_begin + kib_begin / 5)) ] || note_wrong "the agent grew: $kib_begin to $kib_end KiB"
    [ "$files_end" -le $((files_begin + 2)) ] || note_wrong "the agent kept files open: $files_begin, then $files_end"
}

# Of every round the app, the scenario and the answer.
rounds() {
    sed -nE 's/.* round app=([^ ]+) scenario=([^ ]+) answer=([^ ]+) .*/\1 \2 \3/p' "$place/calm.log"
}

# A sixth of those that are due is the least: guests are away at times, and their rounds wait in a row.
judge_rounds() {
    local least=$((minutes * 60 / 5 / 6)) app scenario count kinds=0
    while read -r app scenario count; do
        kinds=$((kinds + 1))
        [ "$count" -ge "$least" ] || note_wrong "$app $scenario: $count rounds, not the $least that there must be"
    done < <(rounds | awk '{ n[$1 " " $2]++ } END { for (of in n) print of, n[of] }')
    [ "$kinds" -eq "$SOAK_WATCHES" ] || note_wrong "$kinds scenarios had rounds, not $SOAK_WATCHES"
    [ "$(wc -l <"$place/states")" -ge $((minutes * 30)) ] || note_wrong 'the page of the agent was looked at too seldom'
}

summary() {
    echo
    echo "in $minutes minutes, under load, with all that happened:"
    rounds | awk '
        { of[$3]++; key = $1 " " $2; each[key, $3]++; keys[key]
          run[key] = $3 == "dead" ? run[key] + 1 : ($3 == "alive" ? 0 : run[key])
          if (run[key] > longest) { longest = run[key]; who = key } }
        END {
            printf "  rounds: %d alive, %d dead, %d unknown\n", of["alive"], of["dead"], of["unknown"]
            for (key in keys) printf "    %-32s %5d alive %4d dead %4d unknown\n", key,
                each[key, "alive"], each[key, "dead"], each[key, "unknown"] | "sort"
            close("sort")
            printf "  dead rounds in a row, those of pauses and boots among them, at most: %d%s\n", longest, longest ? " (" who ")" : ""
        }'
    echo "  times that an app became suspect: $(count ' to=suspect' "$place/calm.log")"
    echo "  boots that were noticed, each by every scenario: $(count 'the guest has booted' "$place/calm.log")"
    echo "  looks at the agent's page: $(wc -l <"$place/states")"
    echo "  the agent since it was last started: $kib_begin KiB resident, then $kib_end; $files_begin files open, then $files_end"
    echo "  bytes in the spool: $(find "$place/state/spool" -name '*.parcel' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')"
    echo "  bytes sent to the broker since the agent was last started: $(metric upload_sent_bytes)"
    echo
}

incidents_of() {
    ask_controller incidents --json | tr -d ' \n' | grep -oE '"app_name":"[^"]*"|"scenario":"[^"]*"' |
        paste -d' ' - - | grep -F "\"$1\"" || true
}

is_found() { incidents_of "$1" | grep -q '"linux-console"'; }

# One guest panics. Whoever cannot find that has proven nothing above.
positive_control() {
    local found broken=${SOAK_GUESTS[0]} guest
    hack/lab break "$broken" panic >/dev/null
    tell "$broken panics"
    wait_until 120 is_found "$broken" || note_wrong "the panic of $broken was not found within 120 s"
    tell 'the panic is an incident'
    # None may follow twice, nor for the other guest.
    sleep 30
    found=$(incidents_of "$broken")
    echo "  incidents of $broken, by scenario:" $found
    for guest in "${SOAK_GUESTS[@]:1}"; do
        zero "incidents of $guest, which is well" "$(incidents_of "$guest" | grep -c . || true)"
    done
    zero 'scenarios with more than one incident' "$(sort <<<"$found" | uniq -d | grep -c . || true)"
    [ "$(metric incidents)" -gt 0 ] || note_wrong 'the metrics of the agent count no incident'
    grep -q 'class=panic' "$place/agent.log" || note_wrong 'no diagnosis says panic'
}
