package main

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// keyValueServer is the database of this example: GET, PUT and DELETE /value?key=K,
// and GET /keys?prefix=P.
func keyValueServer() http.Handler {
	var mu sync.RWMutex
	values := map[string][]byte{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /value", func(w http.ResponseWriter, r *http.Request) {
		mu.RLock()
		defer mu.RUnlock()
		value, ok := values[r.URL.Query().Get("key")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(value)
	})
	mux.HandleFunc("PUT /value", func(w http.ResponseWriter, r *http.Request) {
		value, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		values[r.URL.Query().Get("key")] = value
	})
	mux.HandleFunc("DELETE /value", func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		delete(values, r.URL.Query().Get("key"))
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		mu.RLock()
		defer mu.RUnlock()
		keys := slices.Sorted(maps.Keys(values))
		keys = slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, r.URL.Query().Get("prefix")) })
		json.NewEncoder(w).Encode(keys)
	})
	return mux
}
