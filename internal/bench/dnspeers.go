package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dcrouter/dcrouter/dnsserver"
)

// isDNS says whether a server is one of DNS.
func (f front) isDNS() bool { return f >= dnsUDP }

// oursDNS has options for the program of ours.
func oursDNS(gateway string, options ...string) peer {
	return peer{name: "ours", program: gateway, setup: func(s site) ([]string, error) {
		cfg := dnsserver.Config{
			ListenHost: "127.0.0.1", Port: &s.port,
			Zones: []dnsserver.Zone{{Name: dnsOrigin, File: s.zone.file}},
		}
		args := append([]string{"-control", loopback(s.control), "-cert", s.cert.cert, "-key", s.cert.key}, options...)
		switch s.front {
		case dnsTLS:
			cfg.Listen, cfg.Port, cfg.DoT = new(bool), nil, &dnsserver.EncryptedPort{Port: &s.port}
		case dnsHTTPS:
			cfg.Listen, cfg.Port, cfg.DoH = new(bool), nil, &dnsserver.EncryptedPort{Port: &s.port}
		}
		conf, err := json.Marshal(cfg)
		if err != nil {
			return nil, err
		}
		file, err := s.write("dns.json", string(conf))
		return append(args, "-dns", file), err
	}}
}

// The peers are set up as their manuals advise for speed, with a worker for
// each of two processors, and answer with as little as we do where they can.

func knot() peer {
	return peer{name: "Knot", program: "knotd", setup: func(s site) ([]string, error) {
		file, err := s.write("knot.conf", fmt.Sprintf(`
server:
    rundir: "%[1]s"
    pidfile: knot.pid
    listen: 127.0.0.1@%[2]d
    udp-workers: 2
    tcp-workers: 2
    tcp-reuseport: on
    tcp-max-clients: 1000
log:
  - target: stderr
    any: error
database:
    storage: "%[1]s"
zone:
  - domain: %[3]s
    file: "%[4]s"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
`, s.dir, s.port, dnsOrigin, s.zone.file))
		return []string{"-c", file}, err
	}}
}

func nsd() peer {
	return peer{name: "NSD", program: "nsd", setup: func(s site) ([]string, error) {
		tls := ""
		if s.front == dnsTLS {
			tls = fmt.Sprintf("tls-port: %d\n\ttls-service-key: %q\n\ttls-service-pem: %q", s.port, s.cert.key, s.cert.cert)
		}
		file, err := s.write("nsd.conf", fmt.Sprintf(`
server:
	ip-address: 127.0.0.1@%[1]d
	server-count: 2
	reuseport: yes
	tcp-count: 1000
	minimal-responses: yes
	rrl-ratelimit: 0
	rrl-whitelist-ratelimit: 0
	username: ""
	database: ""
	zonesdir: "%[2]s"
	pidfile: "%[2]s/nsd.pid"
	xfrdfile: "%[2]s/xfrd.state"
	zonelistfile: "%[2]s/zone.list"
	xfrdir: "%[2]s"
	cookie-secret-file: ""
	%[5]s
remote-control:
	control-enable: no
zone:
	name: %[3]s
	zonefile: "%[4]s"
`, s.port, s.dir, dnsOrigin, s.zone.file, tls))
		return []string{"-d", "-c", file}, err
	}}
}

func coreDNS() peer {
	return peer{name: "CoreDNS", program: "coredns", setup: func(s site) ([]string, error) {
		scheme, tls := "dns", ""
		switch s.front {
		case dnsTLS:
			scheme = "tls"
		case dnsHTTPS:
			scheme = "https"
		}
		if s.front != dnsUDP && s.front != dnsTCP {
			tls = fmt.Sprintf("tls %s %s", s.cert.cert, s.cert.key)
		}
		file, err := s.write("Corefile", fmt.Sprintf(`
%s://%s:%d {
	bind 127.0.0.1
	multisocket 2
	%s
	file %s %s {
		reload 0
	}
}
`, scheme, strings.TrimSuffix(dnsOrigin, "."), s.port, tls, s.zone.file, dnsOrigin))
		return []string{"-conf", file}, err
	}}
}
