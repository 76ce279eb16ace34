# In the host of world.sh, as root: makes it one where an ordinary user, number 1000, may have taps once root says
# 'nofear setup'; then the command.
#
#   unshare --net --mount bash world.sh FOLDER bash taps.sh FOLDER COMMAND...
#
# as_user runs the command as that user; its files lie where that user sees them. What is installed lies in memory.
set -eu
export FOLDER=$1 MINE=/usr/local/nofear
shift
made=
[[ -e /etc/nofear ]] || { mkdir /etc/nofear && made=1; }
for place in /usr/local /etc/nofear; do mount -t tmpfs -o mode=755 taps $place; done
trap 'umount --lazy /etc/nofear; [[ -z $made ]] || rmdir /etc/nofear' EXIT
mkdir -p $MINE/home $MINE/run $MINE/dev
chmod 755 "$FOLDER"
chown 1000:1000 $MINE/home $MINE/run
chmod 700 $MINE/run
mount --bind $MINE/dev $MINE/dev
for name in NOFEAR NOFEAR_KERNEL NOFEAR_INITRAMFS; do
  touch $MINE/$name
  mount --bind "${!name}" $MINE/$name
  export $name=$MINE/$name
done
mkdir -p $MINE/scripts
cp "$SCRIPTS"/* $MINE/scripts
export SCRIPTS=$MINE/scripts
# As udev and a login make them.
mknod -m 666 $MINE/dev/kvm c 10 232
mknod -m 666 $MINE/dev/tun c 10 200
mount --bind $MINE/dev/kvm /dev/kvm
mount --bind $MINE/dev/tun /dev/net/tun

as_user() {
  setpriv --reuid=1000 --regid=1000 --clear-groups \
    env HOME=$MINE/home XDG_RUNTIME_DIR=$MINE/run XDG_CACHE_HOME=$MINE/home/cache TMPDIR=/tmp "$@"
}
# All that a network of this host consists of. Counters are not part of it, nor are link-local addresses, which take a
# while to be there.
state() {
  nft --stateless list ruleset
  ip -o link | sed 's/ state .*//'
  ip -o address | grep -v fe80:
  ip route show table all | grep -v fe80:
  ip -6 route show table all | grep -v fe80:
  ip rule
  sysctl --all 2>/dev/null | grep -E '^net\.(ipv4|ipv6|netfilter)\.' | grep -vE 'conntrack_count|nf_conntrack_(buckets|max)|tcp_fastopen_key|stable_secret|neigh\.|flush'
}
# Waits until no tap is there and no table of ours.
all_gone() {
  for _ in $(seq 200); do
    if ! ip -o link | grep -q nofear && ! nft list tables | grep -q nofear; then return 0; fi
    sleep 0.2
  done
  ip -o link
  nft list tables
  return 1
}
# Makes the way to the Internet one of packets of 9,000 bytes.
long() {
  ip link set wan mtu 9000
  nsenter --net="/proc/$INTERNET/ns/net" ip link set far mtu 9000
}
export -f as_user state all_gone long
"$@"
