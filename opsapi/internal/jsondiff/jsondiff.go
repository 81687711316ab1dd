// Package jsondiff says what differs between two JSON documents, in words that
// one can show although the documents have secrets in them.
package jsondiff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Kinds of [Change].
const (
	Add     = "add"
	Remove  = "remove"
	Replace = "replace"
	// Reorder is of a list whose elements have names: Before and After are the
	// names in their order.
	Reorder = "reorder"
)

// maxChanges bounds a result.
const maxChanges = 1000

// maxDepth bounds how deep differences are looked for: below, values are
// compared as a whole.
const maxDepth = 64

// Change is a difference.
type Change struct {
	// Op is [Add], [Remove], [Replace] or [Reorder].
	Op string `json:"op" doc:"add, remove, replace or reorder"`
	// Path leads to the value, as in routes[0].priority: in the new document, or
	// in the old one for what was removed.
	Path string `json:"path"`
	// Before and After are the values, absent where there was or is none.
	Before json.RawMessage `json:"before,omitempty" doc:"the old value, *** for secrets"`
	After  json.RawMessage `json:"after,omitempty" doc:"the new value, *** for secrets"`
}

// Document is a JSON document, and the same with its secrets replaced.
type Document struct {
	Full, Shown json.RawMessage
}

// Diff returns what differs from a to b, 1,000 changes at most. What differs is
// told by Full, the values are from Shown.
func Diff(a, b Document) ([]Change, error) {
	before, err := parse(a)
	if err != nil {
		return nil, err
	}
	after, err := parse(b)
	if err != nil {
		return nil, err
	}
	var d differ
	d.compare("", before, after, 0)
	return d.changes, nil
}

// node is a value with what may be shown of it.
type node struct {
	full, shown any
	missing     bool
}

func parse(d Document) (node, error) {
	var n node
	for _, one := range []struct {
		data json.RawMessage
		v    *any
	}{{d.Full, &n.full}, {d.Shown, &n.shown}} {
		dec := json.NewDecoder(bytes.NewReader(one.data))
		dec.UseNumber()
		if err := dec.Decode(one.v); err != nil {
			return n, fmt.Errorf("the document is no JSON: %w", err)
		}
	}
	return n, nil
}

// text is what is shown of a value.
func (n node) text() json.RawMessage {
	if n.missing {
		return nil
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(n.shown); err != nil { // unreachable: it came from JSON
		return nil
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// hidden is shown where the two forms of a document have not the same shape.
const hidden = "***"

func (n node) field(name string) node {
	object, _ := n.full.(map[string]any)
	v, ok := object[name]
	if !ok {
		return node{missing: true}
	}
	if shown, _ := n.shown.(map[string]any); shown != nil {
		if s, ok := shown[name]; ok {
			return node{full: v, shown: s}
		}
	}
	return node{full: v, shown: hidden}
}

func (n node) element(i int) node {
	list, _ := n.full.([]any)
	if i >= len(list) {
		return node{missing: true}
	}
	if shown, _ := n.shown.([]any); len(shown) == len(list) {
		return node{full: list[i], shown: shown[i]}
	}
	return node{full: list[i], shown: hidden}
}

type differ struct{ changes []Change }

func (d *differ) add(c Change) {
	if len(d.changes) < maxChanges {
		d.changes = append(d.changes, c)
	}
}

func (d *differ) compare(path string, a, b node, depth int) {
	switch {
	case a.missing && b.missing:
		return
	case a.missing:
		d.add(Change{Op: Add, Path: path, After: b.text()})
		return
	case b.missing:
		d.add(Change{Op: Remove, Path: path, Before: a.text()})
		return
	}
	objectA, isA := a.full.(map[string]any)
	objectB, isB := b.full.(map[string]any)
	listA, isListA := a.full.([]any)
	listB, isListB := b.full.([]any)
	switch {
	case isA && isB && depth < maxDepth:
		names := slices.Collect(maps.Keys(objectA))
		for name := range objectB {
			if _, both := objectA[name]; !both {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			d.compare(join(path, name), a.field(name), b.field(name), depth+1)
		}
	case isListA && isListB && depth < maxDepth:
		namesA, okA := elementNames(listA)
		namesB, okB := elementNames(listB)
		if okA && okB {
			d.named(path, a, b, namesA, namesB, depth)
			return
		}
		for i := range max(len(listA), len(listB)) {
			d.compare(index(path, i), a.element(i), b.element(i), depth+1)
		}
	case !same(a.full, b.full):
		d.add(Change{Op: Replace, Path: path, Before: a.text(), After: b.text()})
	}
}

// named compares lists whose elements are known by their names.
func (d *differ) named(path string, a, b node, namesA, namesB []string, depth int) {
	at := make(map[string]int, len(namesA))
	for i, name := range namesA {
		at[name] = i
	}
	kept := make([]string, 0, len(namesB))
	stays := make(map[string]bool, len(namesB))
	for j, name := range namesB {
		i, both := at[name]
		if !both {
			d.add(Change{Op: Add, Path: index(path, j), After: b.element(j).text()})
			continue
		}
		kept = append(kept, name)
		stays[name] = true
		delete(at, name)
		d.compare(index(path, j), a.element(i), b.element(j), depth+1)
	}
	for i, name := range namesA {
		if _, gone := at[name]; gone {
			d.add(Change{Op: Remove, Path: index(path, i), Before: a.element(i).text()})
		}
	}
	order := slices.DeleteFunc(slices.Clone(namesA), func(name string) bool { return !stays[name] })
	if !slices.Equal(order, kept) {
		d.add(Change{Op: Reorder, Path: path, Before: node{shown: order}.text(), After: node{shown: kept}.text()})
	}
}

// elementNames returns what the elements of a list are called, if all are
// objects with names of their own.
func elementNames(list []any) ([]string, bool) {
	seen := make(map[string]bool, len(list))
	names := make([]string, len(list))
	for i, v := range list {
		object, _ := v.(map[string]any)
		name, _ := object["name"].(string)
		if name == "" || seen[name] {
			return nil, false
		}
		seen[name], names[i] = true, name
	}
	return names, true
}

func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, same)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	}
	if _, ok := b.(map[string]any); ok {
		return false
	}
	if _, ok := b.([]any); ok {
		return false
	}
	return a == b
}

func join(path, name string) string {
	for _, r := range name {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return path + "[" + strconv.Quote(name) + "]"
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
