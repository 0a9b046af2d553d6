# shellcheck shell=bash
# bytes of headline, first and full evidence of broken guests, against tar+xz and zstd of the same

# The evidence is that of tests/data/bundles: guests of hack/lab, broken by faults that no dictionary was trained
# on, captured by `lifesign capture` at the levels `first` and `full`. What is sealed has the manifest, the
# diagnosis and the signature in it, its peers have the artifacts alone: files in a directory, by
# `tar | xz -9` and by `tar | zstd -19`, which has no dictionary. CPU and memory are of sealing and of opening, by a
# process that does nothing else meanwhile, with the compressor as it is shipped and the rest of a debug
# build; memory is what there was more at the peak than before: what one has freed the next uses again, so that
# the largest counts.

place=$PWD/target/bench/bundle
columns='| %-36s | %8s | %8s | %6s | %7s | %8s | %8s | %7s | %8s | %7s | %8s |\n'

per() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

ms() { awk -v us="$1" 'BEGIN { printf "%.1f", us / 1000 }'; }

need xz-utils zstd
rm -rf "$place"
mkdir -p "$place"
say 'sealing what was recorded'
LIFESIGN_BENCH=$place cargo test --locked --quiet --lib -- --ignored --exact \
    bundle::tests::recorded::what_each_costs >"$place/log" 2>&1 || die "failed: $(tail -n 20 "$place/log")"
declare -A sum
# shellcheck disable=SC2059 # the columns are ours
{
    printf "$columns" evidence bytes headline sealed 'of raw' 'of xz -9' 'of zstd' 'seal ms' 'seal KiB' 'open ms' 'open KiB'
    printf "$columns" --- '---:' '---:' '---:' '---:' '---:' '---:' '---:' '---:' '---:' '---:'
}
for level in first full; do
    sum=([raw]=0 [sealed]=0 [xz]=0 [zstd]=0)
    for file in "$place"/*."$level".cost; do
        read -r name sealed headline seal seal_kib open open_kib <"$file"
        directory=$place/$name
        raw=$(cat "$directory"/* | wc -c)
        xz=$(tar -C "$place" -c "$name" | xz -9 | wc -c)
        zstd=$(tar -C "$place" -c "$name" | zstd -q -19 | wc -c)
        # shellcheck disable=SC2059 # the columns are ours
        printf "$columns" "$name" "$raw" "$headline" "$sealed" "$(per "$sealed" "$raw")" "$(per "$sealed" "$xz")" \
            "$(per "$sealed" "$zstd")" "$(ms "$seal")" "$seal_kib" "$(ms "$open")" "$open_kib"
        sum=([raw]=$((sum[raw] + raw)) [sealed]=$((sum[sealed] + sealed))
            [xz]=$((sum[xz] + xz)) [zstd]=$((sum[zstd] + zstd)))
    done
    # shellcheck disable=SC2059 # the columns are ours
    printf "$columns" "all, $level" "${sum[raw]}" '' "${sum[sealed]}" "$(per "${sum[sealed]}" "${sum[raw]}")" \
        "$(per "${sum[sealed]}" "${sum[xz]}")" "$(per "${sum[sealed]}" "${sum[zstd]}")" '' '' '' ''
done
