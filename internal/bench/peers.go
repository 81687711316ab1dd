package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dcrouter/dcrouter/proxy"
)

// A front is what a server under test does on its port.
type front int

const (
	plainHTTP front = iota // HTTP/1.1, forwarded as such
	tlsHTTP                // HTTP/1.1 and HTTP/2 over TLS, forwarded as HTTP/1.1
	tcp                    // any bytes, forwarded
	tcpByName              // TLS, forwarded as it is to where its server name says
	dnsUDP                 // DNS, and over TCP as well
	dnsTCP                 // the same, but the load comes over TCP
	dnsTLS                 // DNS over TLS alone
	dnsHTTPS               // DNS over HTTPS alone
)

// site is what every server under test is configured for.
type site struct {
	dir     string // the server's folder
	front   front
	port    int // the server's
	backend int // the back end's
	control int // of ours
	cert    certificate
	zone    *dnsZone // of DNS
}

// A peer knows how to set a program up as a server under test.
type peer struct {
	name    string
	program string
	// setup writes the configuration and returns the program's arguments.
	setup  func(site) ([]string, error)
	routes int                        // of ours: how many there are beside the first
	queued func(*server) (int, error) // of mail: how many messages it has
}

func ours(gateway string) peer {
	return peer{name: "ours", program: gateway, setup: func(s site) ([]string, error) {
		route := proxy.Route{
			Match:  proxy.Match{Ports: proxy.Ports(s.port)},
			Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "127.0.0.1", Port: s.backend}}},
		}
		switch s.front {
		case plainHTTP:
			route.Match.Protocol = "http"
		case tlsHTTP:
			route.Match.Protocol = "http"
			route.Action.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: s.cert.cert, KeyPath: s.cert.key}}
		case tcp:
			route.Match.Protocol = "tcp"
		case tcpByName:
			route.Match.Domains = []string{"localhost"}
			route.Action.TLS = &proxy.TLS{Mode: proxy.Passthrough}
		}
		conf, err := json.Marshal(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route}})
		if err != nil {
			return nil, err
		}
		file, err := s.write("proxy.json", string(conf))
		return []string{"-config", file, "-control", loopback(s.control)}, err
	}}
}

// The peers are set up as their manuals advise for speed, and to tell the back
// end about the client, as we do too.

// haproxy has options for the section of defaults.
func haproxy(options ...string) peer {
	return peer{name: "HAProxy", program: "haproxy", setup: func(s site) ([]string, error) {
		mode, bind, choice, back := "tcp", "", "default_backend back", ""
		switch s.front {
		case plainHTTP, tlsHTTP:
			mode = "http"
			back = `
	http-reuse always
	option forwardfor
	http-request set-header X-Forwarded-Host %[req.hdr(host)]
	http-request set-header X-Forwarded-Proto ` + s.scheme()
			if s.front == tlsHTTP {
				bind = " ssl crt " + s.cert.both + " alpn h2,http/1.1"
			}
		case tcpByName:
			choice = `tcp-request inspect-delay 5s
	tcp-request content accept if { req.ssl_hello_type 1 }
	use_backend back if { req.ssl_sni -i localhost }`
		}
		file, err := s.write("haproxy.cfg", fmt.Sprintf(`
global
	nbthread 2
	maxconn %d
	maxpipes 100
defaults
	mode %s
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	%s
frontend front
	bind 127.0.0.1:%d backlog 4096%s
	%s
backend back%s
	server only 127.0.0.1:%d
`, idleConnections()+100, mode, strings.Join(options, "\n\t"), s.port, bind, choice, back, s.backend))
		return []string{"-db", "-f", file}, err
	}}
}

func nginx() peer {
	return peer{name: "nginx", program: "nginx", setup: func(s site) ([]string, error) {
		listen := ""
		if s.front == tlsHTTP {
			listen = " ssl http2"
		}
		file, err := s.write("nginx.conf", nginxConf(s.dir, fmt.Sprintf(`
	upstream back {
		server 127.0.0.1:%d;
		keepalive 256;
		keepalive_requests 1000000000;
	}
	server {
		listen 127.0.0.1:%d%s backlog=4096;
		ssl_certificate %s;
		ssl_certificate_key %s;
		location / {
			proxy_pass http://back;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Host $http_host;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}`, s.backend, s.port, listen, s.cert.cert, s.cert.key)))
		return []string{"-p", s.dir, "-c", file}, err
	}}
}

func caddy() peer {
	return peer{name: "Caddy", program: "caddy", setup: func(s site) ([]string, error) {
		tls := ""
		if s.front == tlsHTTP {
			tls = fmt.Sprintf("tls %s %s", s.cert.cert, s.cert.key)
		}
		file, err := s.write("Caddyfile", fmt.Sprintf(`
{
	admin off
	auto_https off
	persist_config off
	servers {
		protocols h1 h2
	}
}
%s://:%d {
	bind 127.0.0.1
	%s
	reverse_proxy 127.0.0.1:%d
}
`, s.scheme(), s.port, tls, s.backend))
		return []string{"run", "--config", file, "--adapter", "caddyfile"}, err
	}}
}

// nginxConf is what all our configurations of nginx have in common. It writes
// into its folder alone, and neither end of a connection is closed because of
// how many requests it has carried.
func nginxConf(dir, http string) string {
	return fmt.Sprintf(`
daemon off;
pid nginx.pid;
error_log error.log error;
worker_processes 2;
worker_rlimit_nofile %d;
events { worker_connections 16384; }
http {
	access_log off;
	client_body_temp_path t1;
	proxy_temp_path t2;
	fastcgi_temp_path t3;
	uwsgi_temp_path t4;
	scgi_temp_path t5;
	ssl_protocols TLSv1.2 TLSv1.3;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
%s
}
`, maxFiles(), http)
}

func (s site) scheme() string {
	if s.front == tlsHTTP {
		return "https"
	}
	return "http"
}

func (s site) write(name, text string) (path string, err error) {
	path = filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}
