#!/usr/bin/env bash
# Runs in the emulated host that counts instructions (`cargo xtask bench disk`): starts one guest that reads and
# writes its disk (disk.c) under nofear's VMM and under QEMU microvm, and prints one line a figure: subject, what,
# value, unit, between tabs.
#
# The image lies on an ext4 as a user's would, with the loop device under it in a tmpfs, since a wait for the
# outside would count. All of it is in the page cache, but for what flushes write. Every subject runs once before
# it is measured. What is traced in a run costs instructions itself: times come from a run with only the guest's
# marks, counts from another.
set -euo pipefail
: "${BENCH_BOOT:?}" "${BENCH_FILES:?}" "${NOFEAR_KERNEL:?}"

trace=/sys/kernel/tracing
mkdir -p $trace
mountpoint -q $trace || mount -t tracefs trace $trace
work=/dev/shm/bench
mkdir -p $work/lib $work/firmware $work/disk
cp "$BENCH_BOOT" $work/boot
cp "$NOFEAR_KERNEL" $work/vmlinux
cp "$BENCH_FILES/disk.cpio" "$BENCH_FILES/cold.cpio" $work/
qemu=$(command -v qemu-system-x86_64 || true)
[[ -z $qemu ]] || cp "$qemu" $work/qemu
for binary in $work/boot ${qemu:+$work/qemu}; do
  { ldd "$binary" || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | xargs -r cp -Lut $work/lib
done
[[ -z $qemu ]] || cp -L /usr/share/qemu/bios-microvm.bin /usr/share/qemu/qboot.rom /usr/share/qemu/linuxboot_dma.bin \
  $work/firmware/ 2>/dev/null || true
truncate -s 160M $work/ext4
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $work/ext4
mount -o loop,noatime $work/ext4 $work/disk
image=$work/disk/image
head -c 64M /dev/urandom >$image
sync
cat $image >/dev/null
export LD_LIBRARY_PATH=$work/lib TMPDIR=$work
cd $work

line="panic=-1 tsc=reliable no_timer_check noreplace-smp random.trust_cpu=on pci=off i8042.noaux i8042.nokbd"
line+=" cryptomgr.notests quiet loglevel=3 8250.nr_uarts=0"
nofear() { ./boot vmlinux "$1" $image; }
# Where the host forbids io_uring, threads do its work.
threads() {
  echo 2 >/proc/sys/kernel/io_uring_disabled
  ./boot vmlinux "$1" $image
  echo 0 >/proc/sys/kernel/io_uring_disabled
}
qemu() {
  ./qemu -L firmware -M microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off -cpu host -smp 1 \
    -m 256 -nodefaults -no-user-config -display none -no-reboot -kernel vmlinux -initrd "$1" -append "$line" \
    -drive "file=$image,format=raw,if=none,id=disk,discard=unmap" -device virtio-blk-device,drive=disk
}

# The loads of disk.c, in its order, with the requests of each.
loads=(
  "1 MiB read in order:64" "1 MiB read in order, 32 at once:64"
  "4 KiB read at random:2000" "4 KiB read at random, 32 at once:2000"
  "1 MiB write in order:64" "1 MiB write in order, 32 at once:64"
  "4 KiB write at random:2000" "4 KiB write at random, 32 at once:2000"
  "4 KiB write, flush:500"
)

echo 0 >$trace/tracing_on
echo mono >$trace/trace_clock
echo 65536 >$trace/buffer_size_kb
echo 'function >= 0x4e4f4600 && function <= 0x4e4f46ff' >$trace/events/kvm/kvm_cpuid/filter

# traced EVENTS COMMAND...: runs the command; the trace of its loads goes to $work/trace.
traced() {
  local events=$1 event
  shift
  echo >$trace/trace
  for event in $events; do echo 1 >"$trace/events/$event/enable"; done
  echo 1 >$trace/tracing_on
  "$@" >$work/out 2>&1 || { cat $work/out >&2; exit 1; }
  echo 0 >$trace/tracing_on
  for event in $events; do echo 0 >"$trace/events/$event/enable"; done
  grep -v '^#' $trace/trace >$work/trace
  if grep -q bench: $work/out; then cat $work/out >&2; exit 1; fi
}
# A figure; on stderr for whoever waits.
row() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"
  echo "$1: $2: $3 $4" >&2
}

# times SUBJECT HOW LOAD...: milliseconds of each load, by its number.
times() {
  local subject=$1 how=$2 number start end
  for number in "${@:3}"; do
    start=$(printf 'func %x' $((0x4e4f4600 + 2 * number))) end=$(printf 'func %x' $((0x4e4f4601 + 2 * number)))
    row "$subject" "${loads[number - 1]%:*}$how" "$(awk -v start="$start" -v end="$end" '
      { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { now = $i + 0; break } }
      $0 ~ start { from = now } $0 ~ end { printf "%.3f\n", (now - from) * 1000; found = 1 }
      END { if (!found) exit 1 }' $work/trace)" ms
  done
}
# counts SUBJECT EVENT UNIT: how often in a request of each load.
counts() {
  local number=0 load start end
  for load in "${loads[@]}"; do
    number=$((number + 1))
    start=$(printf 'func %x' $((0x4e4f4600 + 2 * number))) end=$(printf 'func %x' $((0x4e4f4601 + 2 * number)))
    row "$1" "${load%:*}: $3" "$(awk -v start="$start" -v end="$end" -v event="$2:" -v requests="${load#*:}" '
      $0 ~ start { inside = 1 } $0 ~ end { inside = 0 } inside && index($0, event) { count++ }
      END { printf "%.2f\n", count / requests }' $work/trace)" "each"
  done
}

measure() {
  traced kvm/kvm_cpuid "$1" disk.cpio
  traced kvm/kvm_cpuid "$1" disk.cpio
  times "$1" "" {1..9}
  # Not in the page cache of the host: what is asked for comes through the loop device.
  sync
  echo 3 >/proc/sys/vm/drop_caches
  traced kvm/kvm_cpuid "$1" cold.cpio
  times "$1" ", cold" 3 4
  cat $image >/dev/null
  traced "kvm/kvm_cpuid kvm/kvm_exit kvm/kvm_userspace_exit raw_syscalls/sys_enter" "$1" disk.cpio
  counts "$1" kvm_exit "KVM exits"
  counts "$1" kvm_userspace_exit "user space exits"
  counts "$1" sys_enter "system calls"
}

measure nofear
measure threads
[[ -z $qemu ]] || measure qemu
