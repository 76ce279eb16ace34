# A host with the Internet, a LAN and itself, in namespaces of its own; then the command, in the host's.
#
#   unshare --map-root-user --net --mount bash world.sh FOLDER COMMAND...
#
# The Internet is 203.0.113.5 and 2001:db8:2::5, behind 198.51.100.1; the LAN's one machine is 192.168.77.1; the
# host is 198.51.100.2, 192.168.77.2, 203.0.113.128/29 and its loopback, with a name server on 127.0.0.53. Each server writes what it
# was asked to FOLDER.
set -eu
folder=$1
shift
here=$(dirname "$0")
unshare --net sleep 100000 &
internet=$!
unshare --net sleep 100000 &
lan=$!
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
# Both have their namespace when they have become `sleep`.
for pid in $internet $lan; do
  until [[ $(<"/proc/$pid/comm") == sleep ]]; do sleep 0.1; done
done
export INTERNET=$internet
# No functions: those would stand between the shell and the servers that it ends.
in_internet=(nsenter --net="/proc/$internet/ns/net")
in_lan=(nsenter --net="/proc/$lan/ns/net")

# As systemd sets it: passt pings without privilege.
echo 0 0 >/proc/sys/net/ipv4/ping_group_range
ip link set lo up
ip link add wan type veth peer name far
ip link set far netns "$internet"
ip address add 198.51.100.2/24 dev wan
ip address add 2001:db8:1::2/64 dev wan nodad
ip link set wan up
"${in_internet[@]}" ip link set lo up
"${in_internet[@]}" ip address add 198.51.100.1/24 dev far
"${in_internet[@]}" ip address add 2001:db8:1::1/64 dev far nodad
"${in_internet[@]}" ip address add 203.0.113.5/32 dev lo
"${in_internet[@]}" ip address add 2001:db8:2::5/128 dev lo
"${in_internet[@]}" ip link set far up
# Addresses that are routed to this machine and on none of its interfaces, as a cloud's load balancer does it.
ip route add local 203.0.113.128/29 dev lo
ip route add default via 198.51.100.1
ip -6 route add default via 2001:db8:1::1

ip link add home type veth peer name neighbour
ip link set neighbour netns "$lan"
ip address add 192.168.77.2/24 dev home
ip link set home up
"${in_lan[@]}" ip link set lo up
"${in_lan[@]}" ip address add 192.168.77.1/24 dev neighbour
"${in_lan[@]}" ip link set neighbour up

echo 'nameserver 127.0.0.53' >"$folder/resolv.conf"
mount --bind "$folder/resolv.conf" /etc/resolv.conf
"${in_internet[@]}" python3 "$here/servers.py" "$folder/internet" &
"${in_lan[@]}" python3 "$here/servers.py" "$folder/lan" &
python3 "$here/servers.py" "$folder/host" names &
for name in internet lan host; do
  until [[ -e $folder/$name.ready ]]; do sleep 0.1; done
done
"$@"
