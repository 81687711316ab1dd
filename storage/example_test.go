package storage_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

func ExampleOpen() {
	folder, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)

	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Dir(folder))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	if err := store.Put(ctx, "email/domains/example.org.json", []byte(`{"dkim":true}`)); err != nil {
		log.Fatal(err)
	}
	for key, err := range store.List(ctx, "email") {
		if err != nil {
			log.Fatal(err)
		}
		value, err := store.Get(ctx, key)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", key, value)
	}
	// Output: email/domains/example.org.json: {"dkim":true}
}

// A host with a database of its own gives two functions.
func ExampleFuncs() {
	var database sync.Map
	read := func(_ context.Context, key string) ([]byte, error) {
		value, ok := database.Load(key)
		if !ok {
			return nil, storage.ErrNotFound
		}
		return []byte(value.(string)), nil
	}
	write := func(_ context.Context, key string, value []byte) error {
		database.Store(key, string(value))
		return nil
	}

	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Funcs(read, write))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	if err := store.Put(ctx, "security/ip-reputation/192.0.2.1.json", []byte("{}"), storage.TTL(time.Hour)); err != nil {
		log.Fatal(err)
	}
	value, _ := database.Load("security/ip-reputation/192.0.2.1.json")
	fmt.Println(value)
	_, err = store.Get(ctx, "security/ip-reputation/192.0.2.2.json")
	fmt.Println(errors.Is(err, storage.ErrNotFound))
	// Output:
	// {}
	// true
}

func ExampleStore_Update() {
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Memory())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	for range 3 {
		err := store.Update(ctx, "stats/deliveries", func(old []byte) ([]byte, error) {
			n := 0
			if old != nil {
				if n, err = strconv.Atoi(string(old)); err != nil {
					return nil, err
				}
			}
			return []byte(strconv.Itoa(n + 1)), nil
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	value, err := store.Get(ctx, "stats/deliveries")
	fmt.Println(string(value), err)
	// Output: 3 <nil>
}

func ExampleStore_Acquire() {
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Memory())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	lease, err := store.Acquire(ctx, "certificates/example.org", 30*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	_, err = store.TryAcquire(ctx, "certificates/example.org", 30*time.Second)
	fmt.Println(errors.Is(err, storage.ErrLocked))
	fmt.Println(lease.Release(ctx))
	// Output:
	// true
	// <nil>
}

func ExampleStore_Watch() {
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Memory())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	events := store.Watch(ctx, "email/routes") // from now on
	if err := store.Put(ctx, "email/routes/1.json", []byte("{}")); err != nil {
		log.Fatal(err)
	}
	for event, err := range events {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Type, event.Key)
		break
	}
	// Output: put email/routes/1.json
}

func ExampleMigrateFrom() {
	ctx := context.Background()
	old := storage.Memory() // what the host used so far
	store, err := storage.Open(ctx, old)
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Put(ctx, "email/routes/1.json", []byte("{}")); err != nil {
		log.Fatal(err)
	}
	if err := store.Close(); err != nil {
		log.Fatal(err)
	}

	store, err = storage.Open(ctx, storage.Memory(), storage.MigrateFrom(old))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	value, err := store.Get(ctx, "email/routes/1.json")
	fmt.Println(string(value), err)
	// Output: {} <nil>
}
