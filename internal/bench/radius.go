package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"
)

const (
	radiusSecret  = "the secret of the benchmark"
	radiusDevices = 10_000
	radiusNASes   = 32 // sockets, each with one request under way
)

// device is the MAC address of the i-th device.
func device(i int) string { return fmt.Sprintf("aabbcc%06x", i*7) }

// radius is MAC authentication by PAP, with a VLAN in the answer.
func (b *bench) radius() row {
	return row{
		name: "radius", title: fmt.Sprintf("RADIUS, MAC authentication by PAP, %d devices", radiusDevices), load: fmt.Sprintf("%d clients in Go", radiusNASes),
		columns: requestColumns("request"),
		targets: []target{{0, "FreeRADIUS", 0.5}},
		peers:   []peer{b.radiusOurs(), freeRADIUS()}, unprofiled: true,
		measure: func(s *server, d time.Duration) ([]float64, error) {
			var r result
			cpu, err := s.cpuOf(func() (err error) {
				r, err = radiusLoad(loopback(s.port), d)
				return err
			})
			if err != nil {
				return nil, err
			}
			n := float64(r.requests)
			return []float64{micros(cpu) / n, n / r.took.Seconds(), micros(r.p50) / 1000, micros(r.p99) / 1000}, nil
		},
	}
}

// radiusOurs is our server. Where it cannot be built, starting it says why.
func (b *bench) radiusOurs() peer {
	path := filepath.Join(b.dir, "radius")
	out, err := exec.Command("go", "build", "-o", path, "github.com/dcrouter/dcrouter/internal/bench/radius").CombinedOutput()
	return peer{name: "ours", program: path, setup: func(s site) ([]string, error) {
		if err != nil {
			return nil, fmt.Errorf("building ours: %w: %s", err, out)
		}
		var macs strings.Builder
		for i := range radiusDevices {
			fmt.Fprintln(&macs, device(i))
		}
		file, err := s.write("macs", macs.String())
		return []string{"-port", fmt.Sprint(s.port), "-secret", radiusSecret, "-macs", file}, err
	}}
}

// freeRADIUS has the modules that the work needs and no others, no log of
// requests, and signs its answers as we do.
func freeRADIUS() peer {
	return peer{name: "FreeRADIUS", program: "freeradius", setup: func(s site) ([]string, error) {
		var users strings.Builder
		for i := range radiusDevices {
			fmt.Fprintf(&users, "%[1]s Cleartext-Password := \"%[1]s\"\n\tTunnel-Type = VLAN, Tunnel-Medium-Type = IEEE-802, Tunnel-Private-Group-Id = \"100\"\n", device(i))
		}
		file, err := s.write("users", users.String())
		if err != nil {
			return nil, err
		}
		_, err = s.write("radiusd.conf", fmt.Sprintf(`
prefix = /usr
logdir = %[1]s
raddbdir = %[1]s
run_dir = %[1]s
db_dir = %[1]s
libdir = /usr/lib/freeradius
pidfile = %[1]s/pid
max_request_time = 5
cleanup_delay = 5
max_requests = 1000000
hostname_lookups = no
log {
	destination = files
	file = %[1]s/radius.log
	auth = no
}
security {
	allow_core_dumps = no
	max_attributes = 200
	reject_delay = 0
	status_server = yes
}
client test {
	ipaddr = 127.0.0.1
	proto = *
	secret = "%[4]s"
}
thread pool {
	start_servers = 2
	max_servers = 8
	min_spare_servers = 1
	max_spare_servers = 4
	max_requests_per_server = 0
	auto_limit_acct = no
}
modules {
	pap {
	}
	files {
		filename = %[2]s
	}
}
server default {
	listen {
		type = auth
		ipaddr = 127.0.0.1
		port = %[3]d
	}
	listen {
		type = auth
		proto = tcp
		ipaddr = 127.0.0.1
		port = %[3]d
	}
	authorize {
		files
		pap
	}
	authenticate {
		Auth-Type PAP {
			pap
		}
	}
	post-auth {
		update reply {
			Message-Authenticator := 0x00
		}
	}
}
`, s.dir, file, s.port, radiusSecret))
		return []string{"-f", "-d", s.dir}, err
	}}
}

// radiusLoad has clients ask one request after another.
func radiusLoad(addr string, d time.Duration) (result, error) {
	type outcome struct {
		times []time.Duration
		err   error
	}
	outcomes := make([]outcome, radiusNASes)
	start := time.Now()
	var clients sync.WaitGroup
	for i := range outcomes {
		clients.Go(func() {
			o := &outcomes[i]
			var conn net.Conn
			if conn, o.err = net.Dial("udp", addr); o.err != nil {
				return
			}
			defer conn.Close()
			for n := i; time.Since(start) < d; n += radiusNASes {
				began := time.Now()
				if o.err = radiusAsk(conn, device(n%radiusDevices)); o.err != nil {
					return
				}
				o.times = append(o.times, time.Since(began))
			}
		})
	}
	clients.Wait()
	r := result{took: time.Since(start)}
	var times []time.Duration
	for _, o := range outcomes {
		if o.err != nil {
			return r, o.err
		}
		times = append(times, o.times...)
	}
	if len(times) == 0 {
		return r, fmt.Errorf("no answers")
	}
	slices.Sort(times)
	r.requests, r.p50, r.p99 = len(times), times[len(times)/2], times[len(times)*99/100]
	return r, nil
}

// radiusAsk sends a request and checks the answer.
func radiusAsk(conn net.Conn, mac string) error {
	secret := []byte(radiusSecret)
	q := layeh.New(layeh.CodeAccessRequest, secret)
	rfc2869.MessageAuthenticator_Set(q, make([]byte, 16))
	rfc2865.UserName_SetString(q, mac)
	rfc2865.UserPassword_SetString(q, mac)
	rfc2865.CallingStationID_SetString(q, mac)
	rfc2865.NASIdentifier_SetString(q, "switch-1")
	rfc2865.NASPort_Set(q, 50101)
	request, err := q.Encode()
	if err != nil {
		return err
	}
	h := hmac.New(md5.New, secret)
	h.Write(request)
	copy(request[22:], h.Sum(nil))
	if _, err := conn.Write(request); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	var b [4096]byte
	n, err := conn.Read(b[:])
	if err != nil {
		return err
	}
	if !layeh.IsAuthenticResponse(b[:n], request, secret) {
		return fmt.Errorf("the answer is not authentic")
	}
	reply, err := layeh.Parse(b[:n], secret)
	if err != nil {
		return err
	}
	if _, vlan := rfc2868.TunnelPrivateGroupID_GetString(reply); reply.Code != layeh.CodeAccessAccept || vlan != "100" || bytes.Equal(rfc2869.MessageAuthenticator_Get(reply), nil) {
		return fmt.Errorf("got %v with VLAN %q", reply.Code, vlan)
	}
	return nil
}
