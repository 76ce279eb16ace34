#!/usr/bin/env bash
# Runs in the emulated host that counts instructions (`cargo xtask bench files`): one guest does the same work on
# trees that nofear's VMM and QEMU microvm serve over 9P, and virtiofsd beside QEMU where there is one. It prints one
# line a figure: subject, what, value, unit, between tabs.
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
for binary in ${qemu:+/usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd}; do
  [[ ! -x $binary ]] || cp "$binary" $work/virtiofsd
done
libraries() { { ldd "$@" || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | sed 's/:$//' | sort -u; }
for binary in $work/vmm ${qemu:+$work/qemu} $work/virtiofsd; do libraries "$binary" | xargs -r cp -Lut $work/lib; done
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
# microvm LINE MACHINE ARGUMENT...
microvm() {
  ./qemu -L firmware -M "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off$2" -cpu host -smp 1 \
    -m 512 -nodefaults -no-user-config -display none -no-reboot -kernel vmlinux -initrd files.cpio \
    -append "$line $1" "${@:3}"
}
qemu() {
  microvm "bench=$1" "" \
    -fsdev local,id=usr,path=$work/usr,security_model=none,readonly=on -device virtio-9p-device,fsdev=usr,mount_tag=usr \
    -fsdev "local,id=tree,path=$work/$2,security_model=none,readonly=$3" -device virtio-9p-device,fsdev=tree,mount_tag=tree
}
# serve TAG TREE CACHE: by a virtiofsd of its own, which ends with its connection.
serve() {
  rm -f "$1.sock"
  ./virtiofsd "--socket-path=$1.sock" --thread-pool-size=0 -o "source=$work/$2,cache=$3" &
  servers+=($!)
  arguments+=(-chardev "socket,id=$1,path=$1.sock" -device "vhost-user-fs-device,chardev=$1,tag=$1")
  until [[ -S $1.sock ]]; do sleep 0.1; done
}
# What the 9P mounts keep, it keeps.
virtiofsd() {
  local servers=() cache=always
  local arguments=(-object "memory-backend-memfd,id=memory,size=512M,share=on" -global virtio-mmio.force-legacy=false)
  [[ $3 == on ]] || cache=auto
  serve usr usr always
  serve tree "$2" $cache
  microvm "bench=$1 virtiofs" ",memory-backend=memory" "${arguments[@]}"
  wait "${servers[@]}"
}

# The guest's marks have a buffer of their own, so that nothing crowds them out, and so has each event that is counted.
# instance NAME [KIB]: prints its folder.
instance() {
  local at=$trace/instances/$1
  mkdir -p "$at"
  echo mono >"$at/trace_clock"
  echo "${2-64}" >"$at/buffer_size_kb"
  echo "$at"
}
marks=$(instance marks)
echo 'function >= 0x4e4f4600 && function <= 0x4e4f46ff' >"$marks/events/kvm/kvm_cpuid/filter"
echo 1 >"$marks/events/kvm/kvm_cpuid/enable"
declare -A counters
counters["exits"]=$(instance exits)/events/kvm/kvm_exit
counters["system calls"]=$(instance calls)/events/raw_syscalls/sys_enter
# What the kernel copies between its memory and the server's, which is the guest's where there is no copy more: by read,
# write, pread, pwrite, readv, writev, sendmsg, recvmsg, getdents64, preadv, pwritev, and these two with flags.
counters["bytes"]=$(instance bytes 16384)/events/raw_syscalls/sys_exit
copying=$(printf ' || id == %s' 0 1 17 18 19 20 46 47 217 295 296 327 328)
echo "ret > 0 && (${copying# || })" >"${counters["bytes"]}/filter"

# once SUBJECT WORK TREE READONLY: a whole run. The guest says by its last mark that all went well.
once() {
  if [[ $3 == out.d ]]; then rm -rf $work/out.d; mkdir $work/out.d; fi
  echo >"$marks/trace"
  "$1" "$2" "$3" "$4" >$work/printed 2>&1 </dev/null || { cat $work/printed >&2; exit 1; }
  grep 'func 4e4f46' "$marks/trace" >$work/trace || true
  grep -q 'func 4e4f4620' $work/trace || { echo "$1: the guest failed at $2" >&2; cat $work/printed >&2; exit 1; }
}
# Milliseconds between two marks.
between() {
  awk -v from="func $1" -v to="func $2" '{ for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { now = $i + 0; break } }
    index($0, from) { start = now } index($0, to) { end = now }
    END { if (!start || !end) exit 1; printf "%.3f\n", (end - start) * 1000 }' $work/trace
}
# count ENABLED FROM TO: from now on, ENABLED is on between two marks. A buffer keeps the last events only, but
# counts all.
count() {
  local at=${1%/events/*} triggers=${1%/events/*}/events/kvm/kvm_cpuid/trigger event=${1#*/events/}
  echo "!traceoff" >"$triggers"
  echo "!enable_event:${event/\//:}" >"$triggers"
  echo 0 >"$1/enable"
  [[ $# == 3 ]] || return 0
  echo >"$at/trace"
  echo "enable_event:${event/\//:}:1 if function == 0x$2" >"$triggers"
  echo "traceoff:1 if function == 0x$3" >"$triggers"
  echo 1 >"$at/tracing_on"
}
# counted UNIT: what has been counted.
counted() {
  local at=${counters[$1]%/events/*}
  if [[ $1 == bytes ]]; then
    awk '$1 == "overrun:" { lost += $2 } END { exit lost > 0 }' "$at"/per_cpu/cpu*/stats
    awk '/ sys_exit: NR / { sum += $NF } END { printf "%d\n", sum }' "$at/trace"
  else
    awk '$1 == "entries:" || $1 == "overrun:" { sum += $2 } END { print sum }' "$at"/per_cpu/cpu*/stats
  fi
}

# A figure; on stderr for whoever waits.
row() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"
  echo "$1: $2: $3 $4" >&2
}

# measure SUBJECT WORK TREE READONLY
measure() {
  local subject=$1 what=$2 unit
  once "$@"
  once "$@"
  row "$subject" "$what, cold" "$(between 4e4f4610 4e4f4611)" ms
  [[ $4 == off ]] || row "$subject" "$what, warm" "$(between 4e4f4612 4e4f4613)" ms
  for unit in "${!counters[@]}"; do count "${counters[$unit]}" 4e4f4610 4e4f4611; done
  once "$@"
  for unit in "${!counters[@]}"; do
    row "$subject" "$what, cold" "$(counted "$unit")" "$unit"
    count "${counters[$unit]}"
  done
}

for what in ${BENCH_WORK:-sequential at-once find small git compile write-big write-small}; do
  for subject in nofear $(cd $work && ls qemu virtiofsd 2>/dev/null); do
    case $what in
      write-*) measure "$subject" "$what" out.d off ;;
      *) measure "$subject" "$what" tree on ;;
    esac
  done
done
