package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dcrouter/dcrouter/proxy"
)

// A front is what a server under test does on its port.
type front int

const (
	plainHTTP front = iota // HTTP/1.1, forwarded as such
	tlsHTTP                // HTTP/1.1 and HTTP/2 over TLS, forwarded as HTTP/1.1
)

// site is what every server under test is configured for.
type site struct {
	dir     string // the server's folder
	front   front
	port    int // the server's
	backend int // the back end's
	control int // of ours
	cert    certificate
}

// A peer knows how to set a program up as a server under test.
type peer struct {
	name    string
	program string
	// setup writes the configuration and returns the program's arguments.
	setup func(site) ([]string, error)
}

func ours(gateway string) peer {
	return peer{"ours", gateway, func(s site) ([]string, error) {
		route := proxy.Route{
			Match:  proxy.Match{Ports: proxy.Ports(s.port)},
			Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "127.0.0.1", Port: s.backend}}},
		}
		terminate := &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: s.cert.cert, KeyPath: s.cert.key}}
		switch s.front {
		case plainHTTP:
			route.Match.Protocol = "http"
		case tlsHTTP:
			route.Match.Protocol = "http"
			route.Action.TLS = terminate
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

func haproxy() peer {
	return peer{"HAProxy", "haproxy", func(s site) ([]string, error) {
		mode, bind := "http", ""
		switch s.front {
		case tlsHTTP:
			bind = " ssl crt " + s.cert.both + " alpn h2,http/1.1"
		}
		http := ""
		if mode == "http" {
			http = `
	http-reuse always
	option forwardfor
	http-request set-header X-Forwarded-Host %[req.hdr(host)]
	http-request set-header X-Forwarded-Proto ` + s.scheme()
		}
		file, err := s.write("haproxy.cfg", fmt.Sprintf(`
global
	nbthread 2
	maxconn 9500
defaults
	mode %s
	timeout connect 5s
	timeout client 1h
	timeout server 1h
frontend front
	bind 127.0.0.1:%d backlog 4096%s
	default_backend back
backend back%s
	server only 127.0.0.1:%d
`, mode, s.port, bind, http, s.backend))
		return []string{"-db", "-f", file}, err
	}}
}

func nginx() peer {
	return peer{"nginx", "nginx", func(s site) ([]string, error) {
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
	return peer{"Caddy", "caddy", func(s site) ([]string, error) {
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
