package scan

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

const niceHeader = "From: Ann <ann@example.com>\nTo: bob@example.org\nSubject: hello\n" +
	"Date: Mon, 02 Mar 2026 10:00:00 +0000\nMessage-ID: <1@example.com>\n"

// newMessage makes a message of a header, or of one that nobody minds, and a body.
func newMessage(t testing.TB, header, body string) Message {
	t.Helper()
	if header == "" {
		header = niceHeader
	}
	return rawMessage(t, []byte(strings.ReplaceAll(header+"\n"+body, "\n", "\r\n")))
}

func rawMessage(t testing.TB, data []byte) Message {
	t.Helper()
	h, _, err := message.ReadHeader(bufio.NewReader(bytes.NewReader(data)), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return Message{
		ID:       "abc123",
		ClientIP: netip.MustParseAddr("192.0.2.7"), ClientPort: 1234, ClientName: "client.example.com",
		Helo: "client.example.com", MailFrom: "ann@example.com", Rcpts: []string{"bob@example.org"},
		Hostname: "mail.example.org", Received: time.Date(2026, 3, 2, 10, 1, 0, 0, time.UTC),
		Header: h, Data: io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))),
	}
}

// attached is a message with files, as pairs of a name and what is in it.
func attached(t testing.TB, pairs ...string) Message {
	var b strings.Builder
	b.WriteString("--b\n\nsee below\n")
	for i := 0; i < len(pairs); i += 2 {
		text := base64.StdEncoding.EncodeToString([]byte(pairs[i+1]))
		fmt.Fprintf(&b, "--b\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n"+
			"Content-Disposition: attachment; filename*=utf-8''%s\n\n", percent(pairs[i]))
		for len(text) > 76 {
			b.WriteString(text[:76] + "\n")
			text = text[76:]
		}
		b.WriteString(text + "\n")
	}
	b.WriteString("--b--\n")
	return newMessage(t, "From: a@example.com\nContent-Type: multipart/mixed; boundary=b\n", b.String())
}

func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

// zipped and its like make archives of pairs of a name and content.
func zipped(pairs ...string) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		f, _ := w.Create(pairs[i])
		io.WriteString(f, pairs[i+1])
	}
	w.Close()
	return b.String()
}

func gzipped(name, content string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Name = name
	io.WriteString(w, content)
	w.Close()
	return b.String()
}

func tarred(pairs ...string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		w.WriteHeader(&tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1]))})
		io.WriteString(w, pairs[i+1])
	}
	w.Close()
	return b.String()
}

func scan(t testing.TB, s Scanner, m Message) Verdict {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v, err := s.Scan(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// peer answers each connection by serve, on a loopback port, until the test ends.
func peer(t testing.TB, serve func(net.Conn)) Backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return Backend{Address: ln.Addr().String()}
}
