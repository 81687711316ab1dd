package opsapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// asset is a file of the dashboard.
type asset struct {
	plain, zipped []byte // zipped is nil where it saves nothing
	contentType   string
	etag          string
}

// assets are the files of the dashboard, by path.
type assets struct{ files map[string]asset }

// maxAssets bounds what is held in memory, in bytes.
const maxAssets = 16 << 20

func loadAssets(files fs.FS) (*assets, error) {
	a := &assets{files: map[string]asset{}}
	total := 0
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path.Base(name), ".") {
			return err
		}
		kind := contentType(name)
		if kind == "" {
			return nil
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if total += len(data); total > maxAssets {
			return fmt.Errorf("more than %d bytes", maxAssets)
		}
		a.files["/"+name], err = newAsset(data, kind)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opsapi: the dashboard: %w", err)
	}
	if index, ok := a.files["/index.html"]; ok {
		a.files["/"] = index
	}
	return a, nil
}

func newAsset(data []byte, kind string) (asset, error) {
	sum := sha256.Sum256(data)
	one := asset{plain: data, contentType: kind, etag: hex.EncodeToString(sum[:12])}
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return one, err
	}
	if _, err := zip.Write(data); err != nil {
		return one, err
	}
	if err := zip.Close(); err != nil {
		return one, err
	}
	if out.Len() < len(data) {
		one.zipped = out.Bytes()
	}
	return one, nil
}

// contentType is that of a file by its name, or "" for what browsers do not
// get, such as tests and Go code in the same folder. It does not ask the machine,
// so that it is the same everywhere.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".json":
		return "application/json"
	case ".webmanifest":
		return "application/manifest+json"
	case ".svg":
		return "image/svg+xml"
	case ".png":
		return "image/png"
	case ".ico":
		return "image/x-icon"
	case ".woff2":
		return "font/woff2"
	case ".txt":
		return "text/plain; charset=utf-8"
	}
	return ""
}

// asset serves a file of the dashboard.
func (s *Server) asset(w http.ResponseWriter, r *http.Request) {
	var one asset
	ok := false
	if a := s.running().assets; a != nil {
		one, ok = a.files[r.URL.Path]
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	// What is cached is asked for again each time, and not sent if it is the same:
	// so a new version of the program is a new version of all files at once.
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Type", one.contentType)
	data, etag := one.plain, strconv.Quote(one.etag)
	if one.zipped != nil && acceptsGzip(r.Header.Get("Accept-Encoding")) {
		data, etag = one.zipped, strconv.Quote(one.etag+"-gzip")
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", etag)
	for known := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(known), "W/") == etag {
			h.Del("Content-Encoding")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data) // whoever went away does not read it; for HEAD nothing is sent
}

func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.ReplaceAll(params, " ", "") != "q=0" {
			return true
		}
	}
	return false
}
