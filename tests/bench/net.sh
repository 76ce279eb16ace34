#!/usr/bin/env bash
# Runs in the emulated host that counts instructions (`cargo xtask bench net`): starts one guest that talks to a
# server on its host through a tap (net.c) under nofear's VMM and under QEMU microvm, and prints one line a figure:
# subject, what, value, unit, between tabs.
#
# One tap serves all subjects in turn. Everything lies in a tmpfs, since a wait for the outside would count. Every
# subject runs once before it is measured. What is traced in a run costs instructions itself: times come from a run
# with only the guest's marks, counts from another; calls of the server are not counted.
set -euo pipefail
: "${BENCH_VMM:?}" "${BENCH_FILES:?}" "${NOFEAR_KERNEL:?}"

trace=/sys/kernel/tracing
mkdir -p $trace
mountpoint -q $trace || mount -t tracefs trace $trace
work=/dev/shm/bench
mkdir -p $work/lib $work/firmware
cp "$BENCH_VMM" $work/vmm
cp "$NOFEAR_KERNEL" $work/vmlinux
cp "$BENCH_FILES/net.cpio" "$BENCH_FILES/net-host" $work/
qemu=$(command -v qemu-system-x86_64 || true)
[[ -z $qemu ]] || cp "$qemu" $work/qemu
for binary in $work/vmm ${qemu:+$work/qemu}; do
  { ldd "$binary" || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | xargs -r cp -Lut $work/lib
done
[[ -z $qemu ]] || cp -L /usr/share/qemu/bios-microvm.bin /usr/share/qemu/qboot.rom /usr/share/qemu/linuxboot_dma.bin \
  $work/firmware/ 2>/dev/null || true
export TMPDIR=$work
cd $work

# The gateway is the tap, the server an address behind it.
mac=02:6e:66:00:00:01
guest=02:6e:66:01:00:01
ip link set lo up
ip address add 203.0.113.5/32 dev lo
ip tuntap add bench mode tap vnet_hdr
ip link set bench address $mac up
ip address add 10.9.0.1/30 dev bench
ip neighbour add 10.9.0.2 lladdr $guest dev bench nud permanent
sysctl -q net.ipv6.conf.bench.disable_ipv6=1
# What a burst needs.
sysctl -q net.core.rmem_default=4194304
./net-host &
server=$!
trap 'kill $server' EXIT
export LD_LIBRARY_PATH=$work/lib

line="panic=-1 tsc=reliable no_timer_check noreplace-smp random.trust_cpu=on pci=off i8042.noaux i8042.nokbd"
line+=" cryptomgr.notests quiet loglevel=3 8250.nr_uarts=0"
nofear() { ./net-host tap bench ./vmm vmlinux net.cpio "" $mac; }
by_qemu() {
  ./qemu -L firmware -M microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off -cpu host -smp 1 \
    -m 512 -nodefaults -no-user-config -display none -no-reboot -kernel vmlinux -initrd net.cpio -append "$line" \
    -netdev "tap,id=net,ifname=bench,script=no,downscript=no,vhost=$1" -device virtio-net-device,netdev=net,mac=$guest
}
qemu() { by_qemu off; }
vhost() { by_qemu on; }

# The loads of net.c, in its order, with the packets or trips of each; none: packets are counted.
loads=(
  "TCP 64 MiB to the guest:0" "TCP 64 MiB to the guest, 4 streams:0"
  "TCP 64 MiB from the guest:0" "TCP 64 MiB from the guest, 4 streams:0"
  "TCP 2000 round trips:2000" "TCP 2000 round trips, 4 streams:2000"
  "UDP 8192 packets of 64 bytes from the guest:8192"
  "UDP 8192 packets of 64 bytes to the guest:8192" "UDP 8192 packets of 64 bytes to the guest, 4 streams:8192"
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

# times SUBJECT: milliseconds of each load.
times() {
  local number=0 load start end
  for load in "${loads[@]}"; do
    number=$((number + 1))
    start=$(printf 'func %x' $((0x4e4f4600 + 2 * number))) end=$(printf 'func %x' $((0x4e4f4601 + 2 * number)))
    row "$1" "${load%:*}" "$(awk -v start="$start" -v end="$end" '
      { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { now = $i + 0; break } }
      $0 ~ start { from = now } $0 ~ end { printf "%.3f\n", (now - from) * 1000; found = 1 }
      END { if (!found) exit 1 }' $work/trace)" ms
  done
}
# counts SUBJECT EVENT UNIT: how often in a load, for each of its trips, or of the tap's packets.
counts() {
  local number=0 load start end each
  for load in "${loads[@]}"; do
    number=$((number + 1))
    each=packet
    [[ ${load#*:} != 2000 ]] || each=trip
    start=$(printf 'func %x' $((0x4e4f4600 + 2 * number))) end=$(printf 'func %x' $((0x4e4f4601 + 2 * number)))
    row "$1" "${load%:*}: $3" "$(awk -v start="$start" -v end="$end" -v event="$2:" -v trips="${load#*:}" '
      $0 ~ start { inside = 1 } $0 ~ end { inside = 0 }
      inside && index($0, event) && !index($0, "net-host-") { count++ }
      inside && / (net_dev_start_xmit|netif_receive_skb|napi_gro_frags_entry): / { packets++ }
      END { printf "%.2f\n", count / (trips ? trips : packets) }' $work/trace)" "each $each"
  done
}
# packets SUBJECT: how many went through the tap in a load, both ways.
packets() {
  local number=0 load start end
  for load in "${loads[@]}"; do
    number=$((number + 1))
    start=$(printf 'func %x' $((0x4e4f4600 + 2 * number))) end=$(printf 'func %x' $((0x4e4f4601 + 2 * number)))
    row "$1" "${load%:*}" "$(awk -v start="$start" -v end="$end" '
      $0 ~ start { inside = 1 } $0 ~ end { inside = 0 }
      inside && / (net_dev_start_xmit|netif_receive_skb|napi_gro_frags_entry): / { packets++ }
      END { print packets + 0 }' $work/trace)" "packets"
  done
}

# shares SUBJECT: what of a load's milliseconds was whose: by the thread that ran, from switch to switch. A guest's
# thread has the guest and KVM; the rest is the kernel's own threads, and nobody.
shares() {
  local number=0 load start end
  for load in "${loads[@]}"; do
    number=$((number + 1))
    start=$(printf 'func %x' $((0x4e4f4600 + 2 * number))) end=$(printf 'func %x' $((0x4e4f4601 + 2 * number)))
    awk -v start="$start" -v end="$end" '
      { now = -1; for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { now = $i * 1000; break } }
      now < 0 { next }
      $0 ~ start { inside = 1; last = now; next }
      $0 ~ end { if (inside) ran["vcpu"] += now - last; inside = 0 }
      inside && / sched_switch: / {
        match($0, /prev_comm=[^ ]*/); who = substr($0, RSTART + 10, RLENGTH - 10)
        ran[who ~ /^(vcpu|net|net-host|swapper)/ ? who : "others"] += now - last; last = now
      }
      END {
        for (who in ran) {
          kind = who ~ /^vcpu/ ? "guest" : who == "net" ? "device" : who == "net-host" ? "server" : "rest"
          sum[kind] += ran[who]
        }
        printf "%.2f %.2f %.2f %.2f\n", sum["guest"], sum["device"], sum["server"], sum["rest"]
      }' $work/trace >$work/shares
    read -r guest_ms device_ms server_ms rest_ms <$work/shares
    row "$1" "${load%:*}: the guest's thread" "$guest_ms" ms
    row "$1" "${load%:*}: the device's thread" "$device_ms" ms
    row "$1" "${load%:*}: the server" "$server_ms" ms
    row "$1" "${load%:*}: the rest" "$rest_ms" ms
  done
}

for event in net_dev_start_xmit netif_receive_skb napi_gro_frags_entry; do
  echo 'name == "bench"' >$trace/events/net/$event/filter
done

measure() {
  traced kvm/kvm_cpuid "$1"
  traced kvm/kvm_cpuid "$1"
  times "$1"
  traced "kvm/kvm_cpuid kvm/kvm_exit kvm/kvm_userspace_exit raw_syscalls/sys_enter net/net_dev_start_xmit \
    net/netif_receive_skb net/napi_gro_frags_entry" "$1"
  packets "$1"
  counts "$1" kvm_exit "KVM exits"
  counts "$1" kvm_userspace_exit "user space exits"
  counts "$1" sys_enter "system calls"
}

measure nofear
# By their names, which QEMU's threads don't have.
traced "kvm/kvm_cpuid sched/sched_switch" nofear
shares nofear
if [[ -n $qemu ]]; then
  measure qemu
  measure vhost
fi
