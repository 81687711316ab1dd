package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// static serves the files below a folder. It opens the folder at each request,
// so that it may appear later or be exchanged as a whole, and never leaves it:
// not by dot-dot and not by a symbolic link.
func static(folder string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		x := exchangeFrom(req.Context())
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		root, err := os.OpenRoot(folder)
		if err != nil {
			reason := &x.run.p.stats.noFolder
			reason.count.Add(1)
			if skipped, ok := reason.mayLog(time.Now()); ok {
				x.run.log.Warn("cannot open the folder to serve", "route", x.route.Name, "err", err, "not_logged", skipped)
			}
			http.Error(w, "Not Found", http.StatusNotFound)
			return
		}
		defer root.Close()
		// The path that the routes were matched with, not another reading of
		// what was sent: /private%2Ffile is not below /private/.
		name, ok := fileName(x.matched)
		if !ok {
			http.Error(w, "Not Found", http.StatusNotFound)
			return
		}
		f, info, err := openFile(root, name)
		if err == nil && info.IsDir() {
			f.Close()
			if !strings.HasSuffix(x.matched, "/") {
				location := x.path + "/"
				if x.hasQuery {
					location += "?" + x.query
				}
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusMovedPermanently)
				return
			}
			name = path.Join(name, "index.html")
			f, info, err = openFile(root, name)
		} else if err == nil && strings.HasSuffix(x.matched, "/") {
			f.Close()
			err = fs.ErrNotExist // a file is not a folder
		}
		if err == nil && !info.Mode().IsRegular() {
			f.Close()
			err = fs.ErrNotExist
		}
		if err != nil {
			status := http.StatusNotFound
			if errors.Is(err, fs.ErrPermission) {
				status = http.StatusForbidden
			}
			http.Error(w, http.StatusText(status), status)
			return
		}
		serveFile(w, req, root, name, f, info)
	})
}

// fileName is the file for a canonical path, relative to the folder. It
// reports false for paths that name no file, a hidden one, or one that has a
// plainer name.
func fileName(canonical string) (name string, ok bool) {
	if !strings.HasPrefix(canonical, "/") || strings.Contains(canonical, "//") ||
		strings.Contains(canonical, "%2F") || strings.Contains(canonical, "%5C") || strings.Contains(canonical, `\`) {
		return "", false
	}
	name, err := url.PathUnescape(strings.Trim(canonical, "/"))
	if err != nil {
		return "", false
	}
	// Folders have histories and passwords in hidden files, .git and .env.
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != ".well-known" {
			return "", false
		}
	}
	return path.Clean(name), true
}

// serveFile sends a file, or a compressed sibling of it that the client takes.
func serveFile(w http.ResponseWriter, req *http.Request, root *os.Root, name string, f *os.File, info fs.FileInfo) {
	h := w.Header()
	for _, c := range []struct{ coding, suffix string }{{"zstd", ".zst"}, {"br", ".br"}, {"gzip", ".gz"}} {
		if !acceptsCoding(req.Header.Values("Accept-Encoding"), c.coding) {
			continue
		}
		z, zinfo, err := openFile(root, name+c.suffix)
		if err != nil {
			continue
		}
		// An older sibling was made from another version of the file.
		if !zinfo.Mode().IsRegular() || zinfo.ModTime().Before(info.ModTime()) {
			z.Close()
			continue
		}
		f.Close()
		f, info = z, zinfo
		h.Set("Content-Encoding", c.coding)
		if mime.TypeByExtension(path.Ext(name)) == "" {
			h.Set("Content-Type", "application/octet-stream") // not what compressed bytes look like
		}
		break
	}
	defer f.Close()
	h.Add("Vary", "Accept-Encoding")
	h.Set("Etag", fmt.Sprintf(`"%x-%x%s"`, info.ModTime().UnixNano(), info.Size(), strings.TrimSuffix("-"+h.Get("Content-Encoding"), "-")))
	// The name decides the type, also of a compressed file.
	http.ServeContent(w, req, name, info.ModTime(), f)
}

func openFile(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	// Not blocking: a named pipe must not hold the request up.
	f, err := root.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// acceptsCoding reports whether a client names a coding among those it takes.
func acceptsCoding(accept []string, coding string) bool {
	q, _ := quality(accept, coding)
	return q > 0
}
