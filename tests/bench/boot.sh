#!/usr/bin/env bash
# Runs in the emulated host that counts instructions (`cargo xtask bench boot`): starts one guest under nofear's
# VMM and under QEMU microvm, and prints one line a figure: subject, what, value, unit, between tabs.
#
# VMMs, their libraries, kernel and initramfs lie in a tmpfs, since a wait for the outside would count. Every
# start is done once before it is measured, so that all pages are in memory. What is traced in a run costs
# instructions itself: times come from runs with only the guest's marks, exits from runs of their own.
set -euo pipefail
: "${BENCH_BOOT:?}" "${BENCH_VMM:?}" "${BENCH_FILES:?}" "${NOFEAR:?}" "${NOFEAR_KERNEL:?}" "${NOFEAR_INITRAMFS:?}"

trace=/sys/kernel/tracing
mkdir -p $trace
mountpoint -q $trace || mount -t tracefs trace $trace
work=/dev/shm/bench
mkdir -p $work/lib $work/firmware $work/share $work/cache
cp "$BENCH_BOOT" $work/boot
cp "$BENCH_VMM" $work/vmm
cp "$NOFEAR" $work/nofear
cp "$NOFEAR_KERNEL" $work/vmlinux
cp "$NOFEAR_INITRAMFS" $work/product.cpio
cp "$BENCH_FILES/run.cpio" "$BENCH_FILES/idle.cpio" $work/
cp "$BENCH_FILES/command" $work/share/
qemu=$(command -v qemu-system-x86_64 || true)
[[ -z $qemu ]] || cp "$qemu" $work/qemu
for binary in $work/boot $work/vmm $work/nofear ${qemu:+$work/qemu}; do
  { ldd "$binary" || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | xargs -r cp -Lut $work/lib
done
[[ -z $qemu ]] || cp -L /usr/share/qemu/bios-microvm.bin /usr/share/qemu/qboot.rom /usr/share/qemu/linuxboot_dma.bin \
  $work/firmware/ 2>/dev/null || true
export LD_LIBRARY_PATH=$work/lib XDG_RUNTIME_DIR=$work XDG_CACHE_HOME=$work/cache
export NOFEAR_KERNEL=$work/vmlinux NOFEAR_INITRAMFS=$work/product.cpio
cd $work

# As nofear's VMM has it, without the words that only it needs.
line="panic=-1 tsc=reliable no_timer_check noreplace-smp random.trust_cpu=on pci=off i8042.noaux i8042.nokbd"
line+=" cryptomgr.notests quiet loglevel=3 8250.nr_uarts=0"
nofear() { ./boot vmlinux "$1"; }
qemu() {
  ./qemu -L firmware -M microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off -cpu host -smp 1 \
    -m 256 -nodefaults -no-user-config -display none -no-reboot -kernel vmlinux -initrd "$1" -append "$line"
}
product() { ./nofear run --temporary --cpus 1 --mem 256M --share $work/share:/bench -- /bench/command; }

echo 0 >$trace/tracing_on
echo mono >$trace/trace_clock
echo 16384 >$trace/buffer_size_kb
echo 'function >= 0x4e4f4600 && function <= 0x4e4f46ff' >$trace/events/kvm/kvm_cpuid/filter

# traced EVENTS COMMAND...: runs the command; its trace, from its start to its end, goes to $work/trace.
traced() {
  local events=$1 event
  shift
  echo >$trace/trace
  for event in $events; do echo 1 >"$trace/events/$event/enable"; done
  echo 1 >$trace/tracing_on
  echo start >$trace/trace_marker
  "$@" >$work/out 2>&1 || { cat $work/out >&2; exit 1; }
  echo end >$trace/trace_marker
  echo 0 >$trace/tracing_on
  for event in $events; do echo 0 >"$trace/events/$event/enable"; done
  grep -v '^#' $trace/trace >$work/trace
}

# Milliseconds from the VMM's exec to the first line that matches.
since_exec() {
  awk -v want="$1" '{ for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { now = $i + 0; break } }
    /sched_process_exec/ && !start { start = now } $0 ~ want && !found { found = now }
    END { if (!start || !found) exit 1; printf "%.3f\n", (found - start) * 1000 }' $work/trace
}
# A figure; on stderr for whoever waits.
row() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"
  echo "$1: $2: $3 $4" >&2
}
minus() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f\n", a - b }'; }

measure() {
  local subject=$1 init command ended total entry pid
  $subject run.cpio >$work/out 2>&1 || { cat $work/out >&2; exit 1; }
  traced "kvm/kvm_cpuid sched/sched_process_exec" "$subject" run.cpio
  init=$(since_exec 'func 4e4f4601') command=$(since_exec 'func 4e4f4602')
  ended=$(since_exec 'func 4e4f4603') total=$(since_exec 'tracing_mark_write: end')
  row "$subject" "to init" "$init" ms
  row "$subject" "to command" "$command" ms
  row "$subject" "total" "$total" ms
  traced "kvm/kvm_fpu sched/sched_process_exec" "$subject" run.cpio
  entry=$(since_exec 'kvm_fpu: load')
  row "$subject" "VMM set-up" "$entry" ms
  row "$subject" "kernel" "$(minus "$init" "$entry")" ms
  row "$subject" "init" "$(minus "$command" "$init")" ms
  row "$subject" "command" "$(minus "$ended" "$command")" ms
  row "$subject" "tear-down" "$(minus "$total" "$ended")" ms
  row "$subject" "exits to user space" "$(grep -c 'kvm_fpu: load' $work/trace)" exits
  traced "kvm/kvm_exit" "$subject" run.cpio
  row "$subject" "KVM exits" "$(grep -c 'kvm_exit:' $work/trace)" exits

  # Resident memory of the process while its guest idles, without the guest's RAM: the mappings of 200 MiB or
  # more.
  "$subject" idle.cpio >$work/out 2>&1 &
  sleep 2
  pid=$(pgrep -n -x "$(basename "$(program "$subject")")")
  row "$subject" "resident beside guest RAM" "$(awk '/^Size:/ { size = $2 } /^Rss:/ && size < 204800 { sum += $2 }
    END { printf "%.3f\n", sum / 1024 }' "/proc/$pid/smaps")" MiB
  row "$subject" "private beside guest RAM" "$(awk '/^Size:/ { size = $2 } /^Private_/ && size < 204800 { sum += $2 }
    END { printf "%.3f\n", sum / 1024 }' "/proc/$pid/smaps")" MiB
  kill "$pid"
  wait || true
}
program() { case $1 in nofear) echo boot ;; *) echo qemu ;; esac; }

measure nofear
[[ -z $qemu ]] || measure qemu

# What confinement costs, in a VMM with one share: a process for the files, and namespaces for what is left; threads that
# give up system calls, files and capabilities; nothing.
shared() { ./vmm $confinement vmlinux run.cpio "" share=$work/share; }
for confinement in "" --one-process --unconfined; do
  shared >$work/out 2>&1 || { cat $work/out >&2; exit 1; }
  traced "kvm/kvm_cpuid sched/sched_process_exec" shared
  row nofear "to init, ${confinement:-confined}" "$(since_exec 'func 4e4f4601')" ms
  row nofear "total, ${confinement:-confined}" "$(since_exec 'tracing_mark_write: end')" ms
done

# The product: its own initramfs and agent, a command from a share.
product >$work/out 2>&1 || { cat $work/out >&2; exit 1; }
traced "kvm/kvm_cpuid sched/sched_process_exec" product
row "nofear run" "to command" "$(since_exec 'func 4e4f4602')" ms
row "nofear run" "total" "$(since_exec 'tracing_mark_write: end')" ms
traced "kvm/kvm_exit" product
row "nofear run" "KVM exits" "$(grep -c 'kvm_exit:' $work/trace)" exits

# What a profile adds: processor time of all of the process's threads, and so of its guest, since that knows no waits.
# The programs that make the disk come from /usr, which by then is in the page cache.
export XDG_DATA_HOME=$work/data
starts() {
  TIMEFORMAT='%3U %3S'
  { time ./nofear run --cpus 1 --mem 256M --share $work/share:/bench "$@" -- /bench/command >$work/out 2>&1; } 2>$work/time ||
    { cat $work/out >&2; exit 1; }
  awk '{ printf "%.0f\n", ($1 + $2) * 1000 }' $work/time
}
starts --profile warm >/dev/null
for what in temporary new kept; do
  profile=(--profile bench)
  [[ $what != temporary ]] || profile=(--temporary)
  row "nofear run" "processor time, $what profile" "$(starts "${profile[@]}")" ms
done
