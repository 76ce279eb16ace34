#!/usr/bin/env bash
# Runs in the emulated host that counts instructions (`cargo xtask bench gui`): from the start of `nofear run -g xterm`
# to its window, and from the start of Xpra's server and client beside each other, without a VM, to theirs. It prints
# one line a figure: subject, what, value, unit, between tabs.
#
# The window is there when the X server says that one of this title was mapped; nothing looks again and again. What is
# counted until then is the processor time of all threads of the subject, by its control group: with a VM that is the
# guest, too, and what KVM does for it. The host's clock would count as well, but it leaps while all wait, for a file from
# the outside as for a timer. The host has one CPU, so nothing is saved by two things at once: it is the sum of the
# work. The desktop's own X server does not count on either side.
set -euo pipefail
: "${NOFEAR:?}" "${NOFEAR_KERNEL:?}" "${NOFEAR_INITRAMFS:?}"

work=/dev/shm/bench
groups=/sys/fs/cgroup
debug=/sys/kernel/debug
exits_file=$debug/kvm/exits
mkdir -p $work/{run,home,cache,data}
chmod 700 $work/run
mountpoint -q $groups || mount -t cgroup2 none $groups
mountpoint -q $debug || mount -t debugfs none $debug
cp "$NOFEAR" $work/nofear
cp "$NOFEAR_KERNEL" $work/vmlinux
cp "$NOFEAR_INITRAMFS" $work/initramfs
export NOFEAR_KERNEL=$work/vmlinux NOFEAR_INITRAMFS=$work/initramfs HOME=$work/home
export XDG_RUNTIME_DIR=$work/run XDG_CACHE_HOME=$work/cache XDG_DATA_HOME=$work/data
cd $work

title=bench-window
terminal=(xterm -T $title -e sleep 10000)
nofear=(./nofear run --temporary --net none -vv -g)

# A figure; on stderr for whoever waits.
row() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"
  echo "$1: $2: $3 $4" >&2
}
die() { echo "bench gui: $*" >&2; exit 1; }

# The desktop: an X server that lives as long as this script, and one that tells what is mapped.
Xvfb :99 -screen 0 1280x1024x24 -nolisten tcp -noreset -ac -displayfd 3 3>$work/number >$work/xvfb.log 2>&1 &
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
until [[ -s $work/number ]]; do sleep 0.1; done
export DISPLAY=:99
mkfifo $work/events
xev -root -event substructure >$work/events &
exec 4<$work/events

# In a group of its own; what is printed goes to a file.
started() {
  local group=$1
  shift
  (echo $BASHPID >$groups/$group/cgroup.procs; exec "$@") </dev/null >>$work/$group.log 2>&1 &
}
used() {
  local key value
  while read -r key value; do
    if [[ $key == usage_usec ]]; then echo "$value"; fi
  done <$groups/$1/cpu.stat
}

# window GROUP: waits for the window, and prints the milliseconds that the group has used until then; who has used
# them goes to $work/parts, a line each: nanoseconds, thread, and the process's command.
window() {
  local line spent number thread time
  while read -r -t 100000 -u 4 line; do
    [[ $line == MapNotify* ]] || continue
    # Before anything else is done.
    spent=$(used "$1")
    parts "$1" >$work/parts
    cp $exits_file $work/exits 2>/dev/null || echo 0 >$work/exits
    read -r -u 4 line
    [[ $line =~ window\ (0x[0-9a-f]+),\ override ]] || continue
    number=${BASH_REMATCH[1]}
    if xwininfo -id "$number" 2>/dev/null | grep -q "$title"; then
      awk -v used="$spent" 'BEGIN { printf "%.3f\n", used / 1000 }'
      return
    fi
  done
  cat $work/"$1".log >&2
  die "the window of $1 does not come"
}
parts() {
  local thread time rest name
  for thread in $(<$groups/"$1"/cgroup.threads); do
    if { read -r time rest </proc/"$thread"/schedstat && name=$(</proc/"$thread"/comm); } 2>/dev/null; then
      printf '%s\t%s\t%s\n' "$time" "$name" "$(tr '\0' ' ' </proc/"$thread"/cmdline)"
    fi
  done
}
# part PATTERN: milliseconds of the threads whose line has it.
part() { awk -F '\t' -v want="$1" '$2 "\t" $3 ~ want { sum += $1 } END { printf "%.3f\n", sum / 1e6 }' $work/parts; }

# Ends a subject, all of it, and forgets what it said to the X server.
ended() {
  local group=$1 line
  if [[ $group == nofear ]]; then kill -TERM "$(head -n 1 $groups/$group/cgroup.procs)"; sleep 5; fi
  until [[ -z $(<$groups/$group/cgroup.procs) ]]; do
    echo 1 >$groups/$group/cgroup.kill
    sleep 0.2
  done
  rmdir $groups/$group
  while read -r -t 1 -u 4 line; do :; done
}

by_nofear() {
  mkdir $groups/nofear
  : >$work/nofear.log
  started nofear "${nofear[@]}" -- "${terminal[@]}"
}

# The very same options, but for the places; and the variables.
by_xpra() {
  local line server client pipe
  mkdir $groups/xpra
  mapfile -d '' -t server <$work/server
  mapfile -d '' -t client <$work/client
  : >$work/xpra.log
  rm -f $work/xpra.sock $work/ready
  mkfifo $work/ready
  (
    echo $BASHPID >$groups/xpra/cgroup.procs
    exec env "${variables[@]}" "${server[@]}" "--start-child=${terminal[*]}" </dev/null >$work/ready 2>&1
  ) &
  exec {pipe}<$work/ready
  while read -r -u $pipe line; do
    echo "$line" >>$work/xpra.log
    if [[ $line == *"xpra is ready"* ]]; then break; fi
  done
  cat <&$pipe >>$work/xpra.log &
  exec {pipe}<&-
  started xpra env "${variables[@]}" "${client[@]}"
}

variables=(
  XPRA_SYSTEM_CONF_DIRS=/nonexistent XPRA_DEFAULT_CONF_DIRS=/nonexistent XPRA_USER_CONF_DIRS=/nonexistent
  XPRA_VFB_WAIT=300 XPRA_SOCKET_TIMEOUT=300 XPRA_PING_TIMEOUT=600 NO_AT_BRIDGE=1
)

# What nofear starts: the server's arguments as the guest tells them, the client's as they are seen here.
ask='for one in /proc/[0-9]*; do case $(tr "\0" " " <$one/cmdline) in *python*xpra*start*) cat $one/cmdline; exit;; esac; done'
"${nofear[@]}" -- sh -c "$ask" >$work/asked 2>$work/nofear.log || { cat $work/nofear.log >&2; exit 1; }
[[ -s $work/asked ]] || die "the VM does not tell how its server was started"
sed -z -e "s|^--bind=.*|--bind=$work/xpra.sock|" -e 's|^:10$|:51|' $work/asked >$work/server

# measure SUBJECT: once unmeasured, so that all it reads is in memory, and then.
measure() {
  local spent process
  by_"$1"
  window "$1" >&2
  # The client's arguments, too.
  if [[ $1 == nofear ]]; then
    for process in $(<$groups/nofear/cgroup.procs); do
      if grep -qz '^socket://' /proc/"$process"/cmdline && grep -qz '^/usr/bin/python' /proc/"$process"/cmdline; then
        sed -z -e "s|^socket://.*|socket://$work/xpra.sock|" /proc/"$process"/cmdline >$work/client
      fi
    done
    [[ -s $work/client ]] || die "there is no client of nofear's"
  fi
  ended "$1"
  by_"$1"
  spent=$(window "$1")
  row "$1" "to the window" "$spent" ms
  shares_of_"$1" "$spent"
  ended "$1"
}
sum() { awk 'BEGIN { for (i = 1; i < ARGC; i++) sum += ARGV[i]; printf "%.3f\n", sum }' "$@"; }

shares_of_xpra() {
  local client
  client=$(part '\t.*xpra attach')
  row xpra "the client" "$client" ms
  row xpra "the server's side" "$(sum "$1" "-$client")" ms
}
# The guest's own clock goes on while others have the CPU, so that it can't say whose its time was.
shares_of_nofear() {
  local client cpu devices
  client=$(part '\t[^ ]*python.*xpra attach') cpu=$(part '^vcpu')
  devices=$(sum "$(part '\t./nofear run')" "-$cpu")
  row nofear "the client" "$client" ms
  row nofear "the server's side" "$cpu" ms
  row nofear "the VM's devices" "$devices" ms
  row nofear "what starts and confines" "$(sum "$1" "-$client" "-$cpu" "-$devices")" ms
  row nofear "KVM exits" "$(<$work/exits)" exits
}

measure nofear
measure xpra
