package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/dependencies.md and api anew")

// allowedLicences are those that a host program may be bound by through us. All
// but MPL-2.0 ask for no more than that their text comes along; MPL-2.0 also
// wants changes to its own files published.
func allowedLicences() []string {
	return []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MPL-2.0", "Unlicense"}
}

// licences finds the licences whose texts are in a file, by words that only they
// have. There may be several, where a module has taken in others.
func licences(text string) []string {
	text = strings.Join(strings.Fields(text), " ")
	has := func(words ...string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	}
	var list []string
	add := func(name string, found bool) {
		if found {
			list = append(list, name)
		}
	}
	bsd := has("Redistribution", "use in source and binary forms")
	add("AGPL", has("GNU AFFERO GENERAL PUBLIC LICENSE"))
	add("Apache-2.0", has("Apache License", "Version 2.0"))
	add("BSD-2-Clause", bsd && !has("Neither the name"))
	add("BSD-3-Clause", bsd && has("Neither the name"))
	add("CC0-1.0", has("CC0 1.0"))
	add("GPL", has("GNU GENERAL PUBLIC LICENSE"))
	add("ISC", has("Permission to use, copy, modify, and/or distribute this software for any purpose"))
	add("LGPL", has("GNU LESSER GENERAL PUBLIC LICENSE"))
	add("MIT", has("Permission is hereby granted, free of charge", "to deal in the Software without restriction"))
	add("MPL-2.0", has("Mozilla Public License Version 2.0") || has("Mozilla Public License, version 2.0"))
	add("Unlicense", has("This is free and unencumbered software released into the public domain"))
	return list
}

// purpose says what a module is for.
func purpose(mod string) string {
	switch mod {
	case "github.com/caddyserver/certmagic":
		return "keeps certificates: keys, storage, locks, renewal"
	case "github.com/mholt/acmez/v3":
		return "ACME client (RFC 8555)"
	case "github.com/caddyserver/zerossl":
		return "an authority's own API; certmagic imports it, we do not use it"
	case "github.com/libdns/libdns", "github.com/libdns/cloudflare":
		return "records at DNS hosters, for DNS-01 challenges"
	case "go.uber.org/zap", "go.uber.org/zap/exp", "go.uber.org/multierr":
		return "certmagic's logger, whose lines go to ours"
	case "github.com/zeebo/blake3", "github.com/klauspost/cpuid/v2":
		return "certmagic's hash of certificates"
	case "github.com/emersion/go-message":
		return "mail headers and MIME"
	case "github.com/emersion/go-msgauth":
		return "writes DKIM signatures"
	case "github.com/emersion/go-sasl":
		return "signing in, as go-smtp wants it"
	case "github.com/emersion/go-smtp":
		return "SMTP, behind our own reader of the network"
	case "github.com/xdg-go/scram", "github.com/xdg-go/pbkdf2", "github.com/xdg-go/stringprep":
		return "SCRAM-SHA-256 (RFC 7677)"
	case "github.com/gaissmai/bart":
		return "tables of IP prefixes"
	case "github.com/klauspost/compress":
		return "gzip and zstd"
	case "github.com/miekg/dns":
		return "zone files, and messages that are not answered in the fast path"
	case "github.com/pires/go-proxyproto":
		return "PROXY protocol"
	case "github.com/prometheus/client_golang", "github.com/prometheus/client_model", "github.com/prometheus/common",
		"github.com/prometheus/procfs", "github.com/beorn7/perks", "github.com/cespare/xxhash/v2", "github.com/munnerz/goautoneg",
		"google.golang.org/protobuf":
		return "Prometheus metrics"
	case "github.com/quic-go/quic-go", "github.com/quic-go/qpack":
		return "QUIC and HTTP/3"
	case "golang.org/x/crypto":
		return "argon2id, bcrypt, OCSP"
	case "golang.org/x/net":
		return "HTTP/2, public suffix list, IDNA, HTML in mail, socket batches"
	case "golang.org/x/sys":
		return "system calls that syscall lacks"
	case "golang.org/x/text":
		return "Unicode, character sets of mail"
	case "layeh.com/radius":
		return "RADIUS attributes"
	}
	return ""
}

// dependency is a module of go.mod.
type dependency struct {
	Path, Version, Dir, Error string
	licences                  []string
	importers                 []string // parts of the tree that import it themselves
	with                      []string // public packages that bring it along
}

// dependencies are those of the go.mod in dir, which downloads what is missing.
func dependencies(dir string) ([]*dependency, error) {
	out, err := goCommand(dir, nil, "mod", "download", "-json")
	if err != nil {
		return nil, err
	}
	var list []*dependency
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		d := new(dependency)
		if err := dec.Decode(d); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if d.Error != "" {
			return nil, errors.New(d.Error)
		}
		if d.licences, err = licencesOf(d.Dir); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	all, err := packages(dir, "linux")
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		for _, p := range all {
			rel, ours := p.rel()
			if !ours {
				continue
			}
			_, part := place(rel)
			if imports(p, d.Path, all) {
				d.importers = append(d.importers, nameOf(part))
			}
			if isPublic(rel) && slices.Contains(modulesOf(p, all), d.Path) {
				d.with = append(d.with, nameOf(rel))
			}
		}
		for _, names := range []*[]string{&d.importers, &d.with} {
			slices.Sort(*names)
			*names = slices.Compact(*names)
		}
	}
	slices.SortFunc(list, func(a, b *dependency) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

func nameOf(rel string) string {
	if rel == "" {
		return "dcrouter"
	}
	return rel
}

// imports reports whether a package imports one of a module itself.
func imports(p *pkg, mod string, all map[string]*pkg) bool {
	return slices.ContainsFunc(p.Imports, func(path string) bool {
		dep := all[path]
		return dep != nil && dep.Module != nil && dep.Module.Path == mod
	})
}

// licencesOf reads the files about licences at the top of a module.
func licencesOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "UNLICENSE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, licences(string(text))...)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func checkDependencies(list []*dependency) (problems []string) {
	for _, d := range list {
		if len(d.licences) == 0 {
			problems = append(problems, fmt.Sprintf("%s: no licence found: look for it, and teach licences() its words", d.Path))
		}
		for _, l := range d.licences {
			if !slices.Contains(allowedLicences(), l) {
				problems = append(problems, fmt.Sprintf("%s: %s is not on the list of allowed licences", d.Path, l))
			}
		}
		if purpose(d.Path) == "" {
			problems = append(problems, fmt.Sprintf("%s: say in purpose() what it is for", d.Path))
		}
	}
	return problems
}

// dependencyPage is docs/dependencies.md.
func dependencyPage(list []*dependency) string {
	var b strings.Builder
	b.WriteString(`# Dependencies

Written by ` + "`go test ./internal/lint -run TestDependencies -args -update`" + `; the test fails where this page is stale, or a
licence is not on its list of allowed ones (` + strings.Join(allowedLicences(), ", ") + `).

Every module that go.mod names. "Imported by" are the parts of this library that import it themselves, "comes with" the public
packages that a program imports to get it, on Linux; examples and tests aside. A module without either is there for tests, or for another system.
How many come along with each package is bounded by ` + "`maxModules`" + ` in internal/lint.

| module | version | licence | for | imported by | comes with |
| --- | --- | --- | --- | --- | --- |
`)
	for _, d := range list {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", d.Path, d.Version, strings.Join(d.licences, ", "), purpose(d.Path),
			strings.Join(d.importers, ", "), strings.Join(d.with, ", "))
	}
	return b.String()
}

func TestDependencies(t *testing.T) {
	dir := root(t)
	list, err := dependencies(dir)
	if err != nil {
		t.Fatal(err)
	}
	report(t, checkDependencies(list))
	file, want := filepath.Join(dir, "docs", "dependencies.md"), dependencyPage(list)
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(file); err != nil || string(have) != want {
		t.Errorf("docs/dependencies.md is stale (%v): go test ./internal/lint -run TestDependencies -args -update", err)
	}
}

func TestDependenciesReportsViolations(t *testing.T) {
	for text, want := range map[string]string{
		"MIT License\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy, to deal\nin the Software without restriction": "MIT",
		"Redistribution and use in source and binary\nforms ... Neither the name of":                                                                 "BSD-3-Clause",
		"Redistribution and use in source and binary forms, with or without":                                                                         "BSD-2-Clause",
		"Mozilla Public License Version 2.0":                                                                                                         "MPL-2.0", "GNU GENERAL PUBLIC LICENSE\nVersion 3": "GPL", "all rights reserved": "",
	} {
		if got := strings.Join(licences(text), ", "); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	wantProblems(t, checkDependencies([]*dependency{
		{Path: "golang.org/x/net", licences: []string{"BSD-3-Clause"}},
		{Path: "golang.org/x/sys", licences: []string{"GPL", "MIT"}},
		{Path: "golang.org/x/text"},
		{Path: "example.com/new", licences: []string{"MIT"}},
	}), "golang.org/x/sys: GPL is not", "golang.org/x/text: no licence found", "example.com/new: say in purpose()")
}
