package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// body is what the back end answers every request with: 100 bytes.
const body = "The back end says this, which is one hundred bytes long, to whoever asks it for whatever, every time.\n"

// backend is the server behind all those under test: an nginx that answers by
// itself, because nothing is cheaper.
type backend struct {
	proc  *process
	plain int // port for HTTP
	tls   int // port for HTTPS
}

func startBackend(dir string, cert certificate) (*backend, error) {
	nginx, err := find("nginx")
	if err != nil {
		return nil, err
	}
	b := &backend{}
	if b.plain, err = freePort(); err != nil {
		return nil, err
	}
	if b.tls, err = freePort(); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := nginxConf(dir, fmt.Sprintf(`
	default_type text/plain;
	server {
		listen 127.0.0.1:%d backlog=4096;
		listen 127.0.0.1:%d ssl backlog=4096;
		ssl_certificate %s;
		ssl_certificate_key %s;
		location / { return 200 "%s"; }
	}`, b.plain, b.tls, cert.cert, cert.key, body))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	b.proc, err = start(dir, loopback(b.plain), nginx, "-p", dir, "-c", conf)
	return b, err
}

// checkAnswer makes one request, in HTTP/1 or 2, and compares the answer with
// what the back end says.
func checkAnswer(c *http.Client, url string, version int) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(got) != body || resp.ProtoMajor != version {
		return fmt.Errorf("%s: wrong answer %s %s: %.200q", url, resp.Proto, resp.Status, got)
	}
	return nil
}
