# shellcheck shell=bash
# CPU and memory of a thousand rounds, against prometheus-blackbox-exporter and monit
#
# A round is one TCP connect with an expected banner and one ICMP echo to one app. In a network
# namespace of their own a whole prefix is local: the kernel answers the echoes, one small server the
# connects, and both tell how often they were asked, which is how rounds are counted. 10 apps are asked
# every second, 100 every 5 s, 500 every 15 s, by one peer after the other; after the first answers, so
# that no peer writes a log meanwhile. `missed` are beats without a connect and answers that were not
# well; `late` is by how much an app waited longer than its period for the next connect.
#
# Equal: the questions, the addresses, the pace, the kernel's work in each question, an unprivileged
# ICMP socket where the peer knows how to use one (monit does not), all at their defaults otherwise.
# Counted is the peer's process alone.
#
# Not equal, in the peers' favour: lifesign judges (ladder, state, metrics) and keeps the device's status
# for a broker that is not there. It asks the two in scenarios of their own, each at its own time, for
# in one scenario the first answer that is alive settles the round. It reads the host's and the VM's state
# too, but only when nothing answers, which does not happen here. The exporter keeps no schedule and
# no state: it is told whom to ask over one kept connection (Prometheus keeps one for each target), and
# neither the asking process nor what Prometheus would do with the answer is counted; where it is late,
# that process was. monit sleeps, then asks all apps one after the other with warm caches, where lifesign
# wakes for each at its own time; one app that is silent delays all others of monit's.
# In lifesign's favour: monit keeps a state file, and the exporter the last 100 probes' logs.

place=target/bench/probe
columns='%-9s %4s %6s %6s %19s %9s %9s %7s %6s %7s\n'

# as_apps N: their addresses.
as_apps() { seq "$1" | awk '{ printf "10.77.%d.%d\n", $1 / 250, $1 % 250 + 1 }'; }

start_targets() {
    ip link set lo up
    ip route add local 10.77.0.0/16 dev lo
    # What systemd sets on every machine that it starts.
    echo '0 0' >/proc/sys/net/ipv4/ping_group_range
    # One line for each connection: when, and for which app.
    perl -e '
        use Socket; use Time::HiRes qw(clock_gettime CLOCK_BOOTTIME);
        $| = 1;
        socket(my $port, PF_INET, SOCK_STREAM, 0) or die;
        bind($port, sockaddr_in(22, INADDR_ANY)) && listen($port, 512) or die;
        while (accept(my $app, $port)) {
            syswrite($app, "SSH-2.0-bench\r\n");
            my $address = (sockaddr_in(getsockname($app)))[1];
            printf "%d %s\n", 1000 * clock_gettime(CLOCK_BOOTTIME), inet_ntoa($address);
        }' >"$place/asked" &
}

# start_PEER APPS PERIOD: starts it, as process `peer`; the exporter has a `driver` beside, which asks it.
start_lifesign() {
    local question
    mkdir -p "$place/scenarios"
    for question in 'tcp: 22, expect: "SSH-"' 'ping: {}'; do
        cat >"$place/scenarios/${question%%:*}.yaml" <<END
scenario: ${question%%:*}
period: ${2}s
timeout: 1s
initialDelay: 0s
probe:
  - network: { $question }
diagnose: [host]
END
    done
    cat >"$place/agent.yaml" <<END
device: edge-1
state: state
certificate: edge-1.pem
key: edge-1.key
broker: { url: "mqtts://127.0.0.1:9", ca: ca.pem }
http: 127.0.0.1:9464
scenarios: scenarios
apps:
$(as_apps "$1" | awk '{ printf "  - { name: app-%d, uuid: 0f8fad5b-d9cb-469f-a165-%012d, addresses: [%s], scenarios: [tcp, ping] }\n", NR, NR, $1 }')
END
    target/release/lifesign run --config "$place/agent.yaml" 2>"$place/lifesign.log" &
    peer=$!
}

start_exporter() {
    cat >"$place/exporter.yaml" <<END
modules:
  tcp: { prober: tcp, timeout: 1s, tcp: { preferred_ip_protocol: ip4, query_response: [{ expect: "^SSH-" }] } }
  ping: { prober: icmp, timeout: 1s, icmp: { preferred_ip_protocol: ip4 } }
END
    prometheus-blackbox-exporter --config.file "$place/exporter.yaml" --web.listen-address 127.0.0.1:9115 \
        2>"$place/exporter.log" &
    peer=$!
    # More than will be needed: it is ended when the time is over.
    for _ in $(seq 200); do
        as_apps "$1" | sed 's|.*|url="http://127.0.0.1:9115/probe?module=tcp\&target=&:22"\nurl="http://127.0.0.1:9115/probe?module=ping\&target=&"|'
    done >"$place/urls"
    sleep 1
    curl -s --rate "$((2 * $1 / $2))/s" -K "$place/urls" >"$place/exporter.answers" &
    driver=$!
}

start_monit() {
    {
        printf 'set daemon %d\nset logfile %s\n' "$2" "$PWD/$place/monit.log"
        printf 'set %sfile %s\n' id "$PWD/$place/monit.id" pid "$PWD/$place/monit.pid" state "$PWD/$place/monit.state"
        as_apps "$1" | awk '{ printf "check host app-%d with address %s\n  if failed ping with timeout 1 seconds then alert\n  if failed port 22 type tcp expect \"^SSH-\" with timeout 1 seconds then alert\n", NR, $1 }'
    } >"$place/monitrc"
    chmod 600 "$place/monitrc"
    rm -f "$place/monit.log"
    monit -I -c "$place/monitrc" >/dev/null 2>&1 &
    peer=$!
}

# failures PEER: how many questions were not answered well so far, as it tells.
failures() {
    case $1 in
        lifesign) curl -s 127.0.0.1:9464/metrics | awk '/^lifesign_rounds_total/ && !/alive/ { sum += $2 } END { print sum + 0 }' ;;
        exporter) grep -c '^probe_success 0' "$place/exporter.answers" || true ;;
        monit) grep -c ' error ' "$place/monit.log" || true ;;
    esac
}

# Hundredths of a second that the peer used, echoes that the kernel answered, milliseconds since boot.
used() { awk '{ print $14 + $15 }' "/proc/$peer/stat"; }
echoes() { awk '$1 == "Icmp:" && $10 ~ /[0-9]/ { print $10 }' /proc/net/snmp; }
now() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }
status() { awk -v key="$1:" '$1 == key { print $2 / 1024 }' "/proc/$peer/status"; }

# connects FROM TO APPS PERIOD: how many there were in this time, how many beats passed without one, and
# by how many ms the longest wait of an app for its next one was longer than the period.
connects() {
    awk -v from="$1" -v to="$2" -v apps="$3" -v period="$(($4 * 1000))" '
        $1 >= from && $1 < to {
            count++
            if ($2 in last) {
                wait = $1 - last[$2]
                missed += int(wait / period + 0.5) - 1
                if (wait - period > late) late = wait - period
            } else known++
            last[$2] = $1
        }
        END { print count + 0, missed + (apps - known) * int((to - from) / period), late + 0 }' "$place/asked"
}

# measure PEER APPS PERIOD SECONDS: prints a line, and keeps its figures as PEER.APPS.
measure() {
    local driver='' from to cpu pings failed asked missed late peak anonymous threads
    "start_$1" "$2" "$3"
    # The first period has the start in it, and the states that change with the first answers.
    sleep "$(($3 + 2))"
    [ -n "$(status VmHWM)" ] || die "$1 has ended; its log is in $place"
    failed=$(failures "$1") from=$(now) cpu=$(used) pings=$(echoes)
    sleep "$4"
    to=$(now) cpu=$(($(used) - cpu)) pings=$(($(echoes) - pings))
    failed=$(($(failures "$1") - failed))
    peak=$(status VmHWM) anonymous=$(status RssAnon)
    threads=$(awk '$1 == "Threads:" { print $2 }' "/proc/$peer/status")
    kill $driver "$peer"
    wait $driver "$peer" 2>/dev/null || true
    read -r asked missed late < <(connects "$from" "$to" "$2" "$3")
    local rounds=$(((asked + pings) / 2))
    echo "$((10000 * cpu / rounds)) $peak $anonymous" >"$place/$1.$2"
    # shellcheck disable=SC2059 # the columns are ours
    printf "$columns" "$1" "$2" "$3 s" "$rounds" "$((10000 * cpu / rounds)) ms" "$(printf '%.1f MiB' "$peak")" \
        "$(printf '%.1f MiB' "$anonymous")" "$threads" "$((missed + failed))" "$late ms"
}

# compare APPS: lifesign to each peer.
compare() {
    local peer ours theirs
    read -ra ours <"$place/lifesign.$1"
    for peer in exporter monit; do
        read -ra theirs <"$place/$peer.$1"
        ratio "$1 apps: CPU / $peer's" "${ours[0]}" "${theirs[0]}" ms
        ratio "$1 apps: peak memory / $peer's" "${ours[1]}" "${theirs[1]}" MiB
        ratio "$1 apps: anonymous / $peer's" "${ours[2]}" "${theirs[2]}" MiB
    done
}

if [ -z "${LIFESIGN_BENCH_INSIDE-}" ]; then
    need curl iproute2 openssl perl
    for package in monit prometheus-blackbox-exporter; do
        if ! installed "$package"; then
            need "$package"
            # Debian starts what it installs, and nobody asked for that.
            as_root systemctl disable --now --quiet "$package" 2>/dev/null || true
        fi
    done
    say 'building the agent as it is shipped'
    cargo build --locked --quiet --release --bin lifesign
    rm -rf "$place"
    hack/certs "$place" edge-1
    # Whatever is started inside ends with this script, however that ends.
    LIFESIGN_BENCH_INSIDE=1 exec unshare --user --map-root-user --net --pid --fork --kill-child \
        --mount-proc hack/bench probe
fi
start_targets
# shellcheck disable=SC2059 # the columns are ours
printf "$columns" peer apps period rounds 'CPU of 1,000 rounds' peak anonymous threads missed late
for load in '10 1 100' '100 5 50' '500 15 45'; do
    read -r apps period seconds <<<"$load"
    for name in lifesign exporter monit; do
        measure "$name" "$apps" "$period" "$seconds"
    done
done
for apps in 10 100 500; do
    compare "$apps"
done
