#!/bin/busybox sh
# The first process of the emulated host: builds its root and becomes the relay that runs the command.
#
# The root is the build machine's, read-only, below a tmpfs. The folder that the command starts in is shared
# read-write at the same path. /tmp and /run are the machine's own, but for the folders in `visible`.
set -e
trap 'echo "init: failed"; sleep 1; echo o >/proc/sysrq-trigger; sleep 9' EXIT
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
mount -t tmpfs layers /layers
mkdir /layers/upper /layers/work /layers/lower /layers/control

nine() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"; }
nine low /layers/lower cache=loose,ro
nine control /layers/control cache=loose,ro
mount -t overlay -o lowerdir=/layers/lower,upperdir=/layers/upper,workdir=/layers/work root /root
for folder in dev proc sys; do mount --move /$folder /root/$folder; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o ptmxmode=0666 pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs tmp /root/tmp
mount -t tmpfs run /root/run
mount -t cgroup2 cgroup /root/sys/fs/cgroup
chmod 1777 /root/tmp /root/dev/shm
ln -sfn /proc/self/fd /root/dev/fd

while IFS= read -r folder; do
  mkdir -p "/root$folder"
  mount --bind "/layers/lower$folder" "/root$folder"
done </layers/control/visible
cwd=$(cat /layers/control/cwd)
if [ "$cwd" != / ]; then
  mkdir -p "/root$cwd"
  nine cwd "/root$cwd" cache=loose
fi
ifconfig lo up
hostname emulated-host
mkdir /root/run/control
mount --move /layers/control /root/run/control
trap - EXIT
exec switch_root /root /run/control/xtask host-relay
