#!/usr/bin/env bash
# Runs in the emulated host that counts instructions (`cargo xtask bench files`): one guest does the same work on
# trees that nofear's VMM and QEMU microvm serve over 9P, and prints one line a figure: subject, what, value,
# unit, between tabs.
#
# Everything lies in a tmpfs, since a wait for the outside would count. Each guest runs once before it is
# measured, so that "cold" is the guest's cache and not the host's. What is traced costs instructions itself:
# times come from runs with only the guest's marks, and each count from a run of its own.
set -euo pipefail
: "${BENCH_VMM:?}" "${BENCH_FILES:?}" "${NOFEAR_KERNEL:?}"

trace=/sys/kernel/tracing
mkdir -p $trace
mountpoint -q $trace || mount -t tracefs trace $trace
work=/dev/shm/bench
mkdir -p $work/{lib,firmware,tree,usr/bin,usr/lib}
cp "$BENCH_VMM" $work/vmm
cp "$NOFEAR_KERNEL" $work/vmlinux
cp "$BENCH_FILES/files.cpio" $work/
qemu=$(command -v qemu-system-x86_64 || true)
[[ -z $qemu ]] || cp "$qemu" $work/qemu
libraries() { { ldd "$@" || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | sed 's/:$//' | sort -u; }
for binary in $work/vmm ${qemu:+$work/qemu}; do libraries "$binary" | xargs -r cp -Lut $work/lib; done
[[ -z $qemu ]] || cp -L /usr/share/qemu/bios-microvm.bin /usr/share/qemu/qboot.rom /usr/share/qemu/linuxboot_dma.bin \
  $work/firmware/ 2>/dev/null || true

# The guest's trees: its files, a repository of them, and the programs it runs with all that they read.
"$BENCH_FILES/files" make $work/tree
export HOME=$work GIT_CONFIG_NOSYSTEM=1
repository() { git --git-dir=$work/tree/git --work-tree=$work/tree/small "$@"; }
repository init -q
repository add .
repository -c user.name=b -c user.email=b@example.org commit -qm files
usr() { local to=$work/usr${1#/usr}; mkdir -p "$(dirname "$to")"; cp -rL "$1" "$to"; }
cp -L "$(command -v git)" "$(command -v gcc)" "$(command -v as)" $work/usr/bin/
compiler=$(gcc -print-prog-name=cc1)
usr "$compiler"
libraries "$(command -v git)" "$(command -v gcc)" "$(command -v as)" "$compiler" | xargs cp -Lut $work/usr/lib
gcc -M $work/tree/source/0.c | tr ' \\' '\n\n' | grep '^/usr/' | while read -r header; do usr "$header"; done

export LD_LIBRARY_PATH=$work/lib
cd $work

# As nofear's VMM has it, without the words that only it needs.
line="panic=-1 tsc=reliable no_timer_check noreplace-smp random.trust_cpu=on pci=off i8042.noaux i8042.nokbd"
line+=" cryptomgr.notests quiet loglevel=3 8250.nr_uarts=0"
nofear() {
  local access=
  [[ $3 == on ]] || access=,rw
  ./vmm vmlinux files.cpio "bench=$1" usr=$work/usr "tree=$work/$2$access"
}
qemu() {
  local at=$work/$2
  ./qemu -L firmware -M microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off -cpu host -smp 1 \
    -m 512 -nodefaults -no-user-config -display none -no-reboot -kernel vmlinux -initrd files.cpio \
    -append "$line bench=$1" \
    -fsdev local,id=usr,path=$work/usr,security_model=none,readonly=on -device virtio-9p-device,fsdev=usr,mount_tag=usr \
    -fsdev "local,id=tree,path=$at,security_model=none,readonly=$3" -device virtio-9p-device,fsdev=tree,mount_tag=tree
}

echo 0 >$trace/tracing_on
echo mono >$trace/trace_clock
echo 32768 >$trace/buffer_size_kb
echo 'function >= 0x4e4f4600 && function <= 0x4e4f46ff' >$trace/events/kvm/kvm_cpuid/filter

# once SUBJECT WORK TREE READONLY: a whole run, in which the guest's marks are traced.
once() {
  if [[ $3 == out.d ]]; then rm -rf $work/out.d; mkdir $work/out.d; fi
  echo >$trace/trace
  echo 1 >$trace/events/kvm/kvm_cpuid/enable
  echo 1 >$trace/tracing_on
  "$1" "$2" "$3" "$4" >$work/printed 2>&1 </dev/null || { cat $work/printed >&2; exit 1; }
}
# The guest says by its last mark that all went well.
went_well() {
  echo 0 >$trace/tracing_on
  grep 'func 4e4f46' $trace/trace >$work/trace || true
  grep -q 'func 4e4f4620' $work/trace || { echo "$1: the guest failed at $2" >&2; cat $work/printed >&2; exit 1; }
}
# Milliseconds between two marks.
between() {
  awk -v from="func $1" -v to="func $2" '{ for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { now = $i + 0; break } }
    index($0, from) { start = now } index($0, to) { end = now }
    END { if (!start || !end) exit 1; printf "%.3f\n", (end - start) * 1000 }' $work/trace
}
# counted EVENT FROM TO SUBJECT WORK...: how often EVENT happens between two marks. The buffer keeps the last ones
# only, but counts all.
counted() {
  local event=$1 enable="enable_event:${1/\//:}:1 if function == 0x$2" stop="traceoff:1 if function == 0x$3"
  local triggers=$trace/events/kvm/kvm_cpuid/trigger
  shift 3
  echo "$enable" >$triggers
  echo "$stop" >$triggers
  once "$@"
  [[ $(<$trace/tracing_on) == 0 ]] || { echo "$1: the guest failed at $2" >&2; cat $work/printed >&2; exit 1; }
  awk '$1 == "entries:" || $1 == "overrun:" { sum += $2 } END { print sum }' $trace/per_cpu/cpu*/stats
  echo "!$stop" >$triggers
  echo "!$enable" >$triggers
}
# A figure; on stderr for whoever waits.
row() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"
  echo "$1: $2: $3 $4" >&2
}

# measure SUBJECT WORK TREE READONLY
measure() {
  local subject=$1 what=$2 count
  echo "$subject: $what" >&2
  once "$@"
  once "$@"
  went_well "$@"
  row "$subject" "$what, cold" "$(between 4e4f4610 4e4f4611)" ms
  [[ $4 == off ]] || row "$subject" "$what, warm" "$(between 4e4f4612 4e4f4613)" ms
  count=$(counted kvm/kvm_exit 4e4f4610 4e4f4611 "$@")
  row "$subject" "$what, cold" "$count" exits
  if [[ -d $trace/events/raw_syscalls ]]; then
    count=$(counted raw_syscalls/sys_enter 4e4f4610 4e4f4611 "$@")
    row "$subject" "$what, cold" "$count" "system calls"
  fi
}

for what in ${BENCH_WORK:-sequential at-once find small git compile write-big write-small}; do
  for subject in nofear ${qemu:+qemu}; do
    case $what in
      write-*) measure "$subject" "$what" out.d off ;;
      *) measure "$subject" "$what" tree on ;;
    esac
  done
done
