package opsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// tape is a storage that remembers what is written, and fails when it is told to.
type tape struct {
	storage.Backend
	mu       sync.Mutex
	log      []func(storage.Backend) error
	from, to int  // the writes that fail
	written  bool // and are done all the same
}

func (r *tape) write(do func(storage.Backend) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.log)
	fails := n >= r.from && n < r.to
	if fails && !r.written {
		r.log = append(r.log, func(storage.Backend) error { return nil })
		return errors.New("no space left on device")
	}
	r.log = append(r.log, do)
	err := do(r.Backend)
	if fails {
		err = errors.Join(err, errors.New("no answer"))
	}
	return err
}

func (r *tape) Put(_ context.Context, key string, value []byte) error {
	value = bytes.Clone(value)
	return r.write(func(b storage.Backend) error { return b.Put(context.Background(), key, value) })
}

func (r *tape) Delete(_ context.Context, key string) error {
	return r.write(func(b storage.Backend) error { return b.Delete(context.Background(), key) })
}

// at returns a storage as it was after n writes.
func (r *tape) at(t *testing.T, n int) *tape {
	b := storage.Memory()
	for _, do := range r.log[:n] {
		if err := do(b); err != nil {
			t.Fatal(err)
		}
	}
	return &tape{Backend: b, log: slices.Clone(r.log[:n])}
}

// keeper is a host that keeps its parts by itself, one after the other, as a Router
// does with those of mail and RADIUS.
type keeper struct {
	*host
	store *storage.Store
}

func parts() []string { return []string{"parts/greeting", "parts/route"} }

func part(c *hostConfig, key string) *string {
	if key == "parts/greeting" {
		return &c.Greeting
	}
	return &c.Proxy.Routes[0].Name
}

func (k *keeper) Apply(ctx context.Context, doc json.RawMessage) error {
	var next hostConfig
	if err := conf.Decode(doc, &next); err != nil {
		return err
	}
	put := func(key, value string) error {
		if *part(&k.config, key) == value {
			return nil
		}
		err := k.store.Put(ctx, key, []byte(value))
		if err == nil {
			k.set(func(c *hostConfig) { *part(c, key) = value })
		}
		return err
	}
	var back []func() error
	for _, key := range parts() {
		old := *part(&k.config, key)
		if err := put(key, *part(&next, key)); err != nil {
			for _, f := range slices.Backward(back) {
				err = errors.Join(err, f())
			}
			return err
		}
		back = append(back, func() error { return put(key, old) })
	}
	return nil
}

// state is what is in force, in both parts or in each.
func (k *keeper) state() string {
	greeting, route := *part(&k.config, "parts/greeting"), *part(&k.config, "parts/route")
	if greeting != route {
		return greeting + " and " + route
	}
	return greeting
}

// boot starts the host, and its history, on a storage.
func boot(t *testing.T, r *tape) (*keeper, *history) {
	t.Helper()
	store, err := storage.Open(t.Context(), struct{ storage.Backend }{r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	k := &keeper{newHost(), store}
	for _, key := range parts() {
		*part(&k.config, key) = "v0"
	}
	k.begin()
	for _, key := range parts() {
		if value, err := store.Get(t.Context(), key); err == nil {
			*part(&k.config, key) = string(value)
		}
	}
	x := openHistory(t, k, store)
	t.Cleanup(x.close)
	return k, x
}

// work changes a configuration in all ways. after is told of each change, and what is
// in force for good since. work returns the last of that.
func work(t *testing.T, k *keeper, x *history, after func(good string)) string {
	good := "v0"
	did := func(now string, err error) {
		if err == nil {
			good = now
		}
		after(good)
	}
	change := func(word string, within time.Duration) int {
		a, err := x.apply(t.Context(), change{author: "ann", confirmWithin: within, build: func(_ context.Context, doc json.RawMessage) (json.RawMessage, error) {
			var c hostConfig
			if err := conf.Decode(doc, &c); err != nil {
				return nil, err
			}
			for _, key := range parts() {
				*part(&c, key) = word
			}
			return conf.Encode(c, true)
		}})
		if within > 0 {
			word = good
		}
		did(word, err)
		return a.Version
	}
	takeBack := func(version int) {
		_, err := x.revert(t.Context(), version)
		did(good, err)
	}
	takeBack(change("not yet", time.Hour))
	change("v1", 0)
	v := change("v2", time.Hour)
	_, err := x.confirm(t.Context(), v)
	did("v2", err)
	takeBack(change("v3", time.Hour))
	change("v4", 0)
	return good
}

// Wherever the process ends, and again when it starts, what is in force after that is
// what was for good before or after the change that was under way.
func TestCrashBeforeEachWrite(t *testing.T) {
	r := &tape{Backend: storage.Memory()}
	type span struct {
		upTo int
		good []string
	}
	k, x := boot(t, r)
	spans := []span{{len(r.log), []string{"v0"}}}
	last := "v0"
	work(t, k, x, func(good string) {
		spans = append(spans, span{len(r.log), []string{last, good}})
		last = good
	})
	if last != "v4" || k.state() != "v4" {
		t.Fatalf("%s, and %s is in force", last, k.state())
	}
	x.close()
	for n := range len(r.log) + 1 {
		i := slices.IndexFunc(spans, func(s span) bool { return n <= s.upTo })
		good := spans[max(i, 0)].good
		if i < 0 {
			good = []string{last}
		}
		again := r.at(t, n)
		k, x := boot(t, again)
		state := k.state()
		if !slices.Contains(good, state) {
			t.Errorf("after %d writes: %s, want %v", n, state, good)
		}
		x.close()
		for m := n; m < len(again.log); m++ {
			k, x := boot(t, again.at(t, m))
			if k.state() != state {
				t.Errorf("after %d writes and %d of the next start: %s, want %s", n, m-n, k.state(), state)
			}
			x.close()
		}
	}
}

// What the host changes by itself once something was changed through the API is noted
// from time to time, and so is there after a crash.
func TestChangesByTheHostOutlastACrash(t *testing.T) {
	store, h := openStore(t), newHost()
	d := openDesk(t, h, store)
	d.greet(d.admin(), "hello", nil).into(&Applied{})
	h.set(func(c *hostConfig) { c.Greeting = "by the program" })
	d.server.sweep(d.server.running())
	again := newHost() // while the first one has not stopped
	openDesk(t, again, store)
	if again.greeting() != "by the program" {
		t.Errorf("the host says %q", again.greeting())
	}
}

// Whichever writes fail, what is in force in the end is what was for good last, and
// after a restart, too.
func TestFailuresAtEachWrite(t *testing.T) {
	total, begun := 1, 0
	for n := 0; n < total; n++ {
		for _, some := range []int{1, 2, 3, 5, 1000} {
			for _, written := range []bool{false, true} {
				name := fmt.Sprintf("%d writes fail after %d, written %t", some, n, written)
				synctest.Test(t, func(t *testing.T) {
					r := &tape{Backend: storage.Memory()}
					k, x := boot(t, r)
					begun = len(r.log)
					r.from, r.to, r.written = begun+n, begun+n+some, written
					good := work(t, k, x, func(string) {})
					total = max(total, len(r.log)-begun)
					if !written {
						again := r.at(t, len(r.log))
						k, x := boot(t, again)
						if k.state() != good {
							t.Errorf("%s: after a restart at once: %s, want %s", name, k.state(), good)
						}
						x.close()
					}
					r.mu.Lock()
					r.to = 0
					r.mu.Unlock()
					time.Sleep(2 * time.Hour)
					synctest.Wait()
					if k.state() != good || x.owed != nil {
						t.Errorf("%s: in the end: %s, want %s; owed %+v", name, k.state(), good, x.owed)
					}
					x.close()
					if k, _ := boot(t, r); k.state() != good {
						t.Errorf("%s: after a restart: %s, want %s", name, k.state(), good)
					}
				})
			}
		}
	}
	if total < 20 {
		t.Errorf("only %d writes", total)
	}
}
