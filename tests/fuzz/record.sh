#!/bin/bash
# Records what Linux's 9P client asks for, and makes the seeds of p9_codec, p9_session and p9_device of it:
#
#   cargo build -p nofear -p nofear-virtio-9p --features nofear-virtio-9p/record
#   cargo build -p nofear-fuzz --example seeds
#   NOFEAR=... NOFEAR_KERNEL=... NOFEAR_INITRAMFS=... tests/fuzz/record.sh target/debug/examples/seeds FOLDER
#
# where NOFEAR is the program that was built first, on a KVM that starts Linux. The seeds go to FOLDER.
set -euo pipefail
seeds=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export NOFEAR_9P_RECORD=$work/recorded
mkdir -p "$work"/{rw,share}/deep/deeper "$NOFEAR_9P_RECORD" "$out"
cd "$work"
# The trees of the targets, each of which has all of these names.
head -c 10000 /dev/zero | tr '\0' '\7' | tee rw/file share/file rw/deep/deeper/file > share/deep/deeper/file
echo hello | tee rw/note > share/note
ln -s ../outside rw/link; ln -s .. share/up; mkfifo share/fifo
cat > commands <<'END'
again() { cd /; umount /run/nofear/shares; mount -t 9p -o "trans=virtio,version=9p2000.L,access=any,$1" nofear-shares /run/nofear/shares; cd /run/nofear/shares; }
umount /a /b
again msize=8192,cache=mmap
ls -lR . > /dev/null; cat 0/file 1/deep/deeper/file > /dev/null; readlink 0/link; stat -f 0; cat 0/missing 1/up/missing
again msize=65536,cache=none
cd 0; mkdir new; echo one > new/other; echo two >> new/other; mv new/other deep/new; ln deep/new hard; ln -s deep soft
mkfifo pipe; mknod node c 1 3; chmod 4640 hard; chown 0:0 hard; truncate -s 5 hard; truncate -s 1G hard; touch -d @1000000000 deep
mv -T new deep/deeper/gone; rm hard soft pipe; rmdir deep/deeper/gone; rm -r deep/new; rmdir deep
again msize=65536,cache=mmap
cd 0; python3 -c '
import fcntl, mmap, os
f = open("file", "rb+")
os.setxattr("file", "user.x", b"value"); os.getxattr("file", "user.x"); os.listxattr("file"); os.removexattr("file", "user.x")
fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5); fcntl.lockf(f, fcntl.LOCK_UN, 10, 5); fcntl.flock(f, fcntl.LOCK_SH)
fcntl.fcntl(f, fcntl.F_GETLK, bytes(32))
m = mmap.mmap(f.fileno(), 8192); m[4090:4100] = b"0123456789"; m.flush(); m.close(); os.fsync(f.fileno())
a = os.open("file", os.O_WRONLY | os.O_APPEND); os.write(a, b"appended"); os.fdatasync(a)
' || true
again msize=507928,cache=loose
exec 3<>0/note; rm 0/note; echo unlinked >&3; cat <&3; exec 3>&-
cd 0; echo x > new; exec 3<new; echo y > other; mv other new; cat <&3; exec 3<&-; mkdir other; mv other deep/; rmdir deep/other
echo x > ../1/note; rm ../1/note; mkdir ../1/new; touch ../1/file
find .. -name 'd*' -exec stat {} + > /dev/null; sync
END
"$NOFEAR" run --temporary --root --share "$work/rw:/a:rw" --share "$work/share:/b" -- bash -c "$(cat commands)" || true
"$seeds" "$NOFEAR_9P_RECORD/nofear-shares" "$out"
du -sh "$out"/*
