// Command storage keeps the state of a Router in a store of the host's own, by a
// function that reads and one that writes. Here that is a small key-value server,
// reached by HTTP, which stands for your database.
//
//	go run ./examples/storage
//
// One Router writes there and ends; a second one, which knows nothing of the first,
// finds all of it. It prints what to try.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/storage"
)

const help = `Try, in another shell:

  dig @%[1]s -p 5300 www.example.com +short          # the record that the first Router was given
  curl -s http://%[1]s:7070/keys                       # what there is in the store
  curl -s "http://%[1]s:7070/value?key=example/starts" # how many Routers have started
`

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *listen); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen string) error {
	ln, err := net.Listen("tcp", net.JoinHostPort(listen, "7070"))
	if err != nil {
		return err
	}
	go http.Serve(ln, keyValueServer())
	db := &client{base: "http://" + ln.Addr().String()}

	first, err := start(ctx, listen, db)
	if err != nil {
		return err
	}
	tx := new(dnsserver.Tx)
	tx.Set(dnsserver.Record{Name: "www.example.com", Type: "A", Value: "192.0.2.80"})
	if err := errors.Join(first.UpdateDNS(ctx, tx), first.Stop(context.Background())); err != nil {
		return err
	}

	second, err := start(ctx, listen, db)
	if err != nil {
		return err
	}
	defer second.Stop(context.Background())
	fmt.Printf(help, listen)
	<-ctx.Done()
	return nil
}

// start starts a Router that keeps everything in db.
func start(ctx context.Context, listen string, db *client) (*dcrouter.Router, error) {
	r, err := dcrouter.New(
		dcrouter.WithDNS(dnsserver.Config{
			ListenHost: listen, Port: new(5300),
			NameServers: []string{"ns1.example.com"},
			Records:     []dnsserver.Record{{Name: "ns1.example.com", Type: "A", Value: "192.0.2.1"}},
		}),
		// read and write are enough. Without a list function an index is kept as values
		// of its own, and without a delete function a deleted key stays as a short text.
		//
		// What must not be written twice (compare-and-swap) is looked after in this
		// process, which is exact as long as one Router at a time has the data. For
		// several, write a storage.Backend (four methods like these) that also has the
		// methods of storage.Conditional; storage/storagetest checks it.
		dcrouter.WithStorageFuncs(db.read, db.write, storage.WithList(db.list), storage.WithDelete(db.delete)),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	// The host's own state may be there too, below a key of its own.
	err = r.Store().Update(ctx, "example/starts", func(old []byte) ([]byte, error) {
		n, _ := strconv.Atoi(string(old)) // nil at first
		return strconv.AppendInt(nil, int64(n)+1, 10), nil
	})
	return r, err
}

// client has the functions. They return when the value is safe, and honour ctx.
type client struct{ base string }

func (c *client) read(ctx context.Context, key string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "/value?key="+url.QueryEscape(key), nil)
}

func (c *client) write(ctx context.Context, key string, value []byte) error {
	_, err := c.do(ctx, http.MethodPut, "/value?key="+url.QueryEscape(key), value)
	return err
}

func (c *client) delete(ctx context.Context, key string) error {
	_, err := c.do(ctx, http.MethodDelete, "/value?key="+url.QueryEscape(key), nil)
	return err
}

func (c *client) list(ctx context.Context, prefix string) (keys []string, err error) {
	b, err := c.do(ctx, http.MethodGet, "/keys?prefix="+url.QueryEscape(prefix), nil)
	if err != nil {
		return nil, err
	}
	return keys, json.Unmarshal(b, &keys)
}

func (c *client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, storage.ErrNotFound // only for a value that there is not
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("the key-value server says %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}
