# In a guest of the tests' world: reaches what may be reached, BYTES each way, then tries what may not.
#
#   reach.sh BYTES
bytes=$1
# Nothing may hang for ever; an emulated machine needs its time.
patience=$((3000 + bytes / 100000))
get() { curl -gsS -m 300 "$@" 2>&1; echo; }
get http://server.test/
get http://six.test/
get http://203.0.113.5/
get http://nosuch.test/ | grep -o nosuch.test | head -n 1
for to in 203.0.113.5 2001:db8:2::5; do
  ping -c 1 -W 30 $to | grep -o "1 received"
  exec 3<>/dev/udp/$to/9999
  echo -n "datagram" >&3
  timeout 30 head -c 8 <&3
  echo
  # What came goes back; what was sent, what came here and what came back are the same. Nothing holds all of it.
  name=server.test
  [[ $to != *:* ]] || name=six.test
  begin=$SECONDS
  back=$(curl -gsS -m $patience http://$name/$bytes | tee >(md5sum >/tmp/here) |
    curl -gsS -m $patience -T - -H "Transfer-Encoding:" -H "Content-Length: $bytes" http://$name/up)
  echo "$bytes bytes each way with $name in $((SECONDS - begin)) s" >&2
  until read -r here _ </tmp/here; do sleep 0.1; done
  [[ -n $back && $here == "$back" && $back == $(curl -gsS -m 300 http://$name/sum) ]] && echo "$bytes bytes each way"
  rm /tmp/here
done
for to in 127.0.0.1 198.51.100.2 203.0.113.129 192.168.77.2 192.168.77.1 198.51.100.1 10.0.0.1 169.254.169.254 100.64.0.1 \
  "[::1]" "[2001:db8:1::2]" "[2001:db8:1::1]" "[fe80::1]" "[fd00::1]" "[64:ff9b::c633:6402]" "[64:ff9b::c0a8:4d01]"; do
  curl -gs -m 60 -o /dev/null http://$to/ && echo "reached $to"
done
exit 0
