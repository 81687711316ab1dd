package dnsserver

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A trie behaves as a sorted map, and versions of it stay what they were.
func TestTrieAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	type version struct {
		trie trie
		want map[string]*node
	}
	var versions []version
	now := version{want: map[string]*node{}}
	for range 60 {
		e := new(edit)
		for range 1 + r.IntN(40) {
			key := keyOf(randomName(r, "\x00"))
			if r.IntN(3) == 0 {
				now.trie.remove(e, key)
				delete(now.want, key)
				continue
			}
			n := &node{key: key}
			now.trie.put(e, n)
			now.want[key] = n
		}
		versions = append(versions, version{now.trie, maps.Clone(now.want)})
	}
	for _, v := range versions {
		keys := slices.Sorted(maps.Keys(v.want))
		if v.trie.size != len(keys) {
			t.Fatalf("size %d, want %d", v.trie.size, len(keys))
		}
		for range 200 {
			key := keyOf(randomName(r, "\x00"))
			if got := v.trie.get(key); got != v.want[key] || got != v.trie.getBytes([]byte(key)) {
				t.Fatalf("get %q: %v, want %v", key, got, v.want[key])
			}
			var floor *node
			var from, below []string
			for _, k := range keys {
				if k <= key {
					floor = v.want[k]
				}
				if k >= key {
					from = append(from, k)
				}
				if strings.HasPrefix(k, key) {
					below = append(below, k)
				}
			}
			if got := v.trie.floor(key); got != floor {
				t.Fatalf("floor of %q: %v, want %v", key, got, floor)
			}
			var got []string
			for n := range v.trie.from(key) {
				got = append(got, n.key)
			}
			if !slices.Equal(got, from) {
				t.Fatalf("from %q: %q, want %q", key, got, from)
			}
			got = nil
			for n := range v.trie.below(key) {
				got = append(got, n.key)
			}
			if !slices.Equal(got, below) {
				t.Fatalf("below %q: %q, want %q", key, got, below)
			}
		}
	}
}

// What it costs to find names in no order.
func BenchmarkTrieGet(b *testing.B) {
	for _, size := range []int{10_000, 1_000_000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			var t trie
			e := new(edit)
			var keys [][]byte
			for i := range size {
				key := keyOf(fmt.Sprintf("\x09h%08x\x00", uint32(i)*2654435761))
				t.put(e, &node{key: key})
				keys = append(keys, []byte(key))
			}
			rand.New(rand.NewPCG(1, 2)).Shuffle(size, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			i := 0
			for b.Loop() {
				if t.getBytes(keys[i]) == nil {
					b.Fatal("lost")
				}
				if i++; i == size {
					i = 0
				}
			}
		})
	}
}
