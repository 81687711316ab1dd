// Package certfile reads a certificate and its key from PEM files, and reads
// them again when they change, so that whatever renews them need not tell
// anybody:
//
//	pair, err := certfile.Open("/etc/ssl/fullchain.pem", "/etc/ssl/key.pem", log)
//	...
//	config := &tls.Config{GetCertificate: pair.GetCertificate}
//
// It copes with files that are replaced by renaming, behind symbolic links
// (certbot, Kubernetes), written in place, or one after the other.
package certfile

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// interval is how long a pair is used without a look at its files.
const interval = 5 * time.Second

// maxSize is more than any chain takes.
const maxSize = 4 << 20

// A Pair is a certificate with its key. There is nothing to close.
type Pair struct {
	certPath, keyPath string
	log               *slog.Logger

	cert   atomic.Pointer[tls.Certificate]
	opened time.Time
	look   atomic.Int64 // how long after opened to look at the files

	// mu is held while files are looked at. Nobody waits for it: with files on a
	// server that hangs, one handshake does so too, and the others go on.
	mu      sync.Mutex
	files   [2]os.FileInfo // as last read
	problem string         // why what they hold is not in use, "" if it is
}

// Open reads the files. Errors are [*conf.FieldError]s with the path certPath,
// keyPath, or none if the two do not belong together. What happens to the files
// later is said to log, which may be nil.
func Open(certPath, keyPath string, log *slog.Logger) (*Pair, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pair{certPath: certPath, keyPath: keyPath, log: log, opened: time.Now()}
	cert, files, err := p.read()
	if err != nil {
		return nil, err
	}
	p.files = files
	p.cert.Store(cert)
	p.look.Store(int64(interval))
	return p, nil
}

// GetCertificate is for [tls.Config]. It returns the certificate, whatever the
// client asks for. At most every five seconds it looks at the files first, and
// reads them if they have changed. As long as they cannot be read or do not
// belong together, what was read before stays in use. It never fails.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p.due() && p.mu.TryLock() {
		if p.due() { // still
			p.refresh()
			p.look.Store(int64(time.Since(p.opened) + interval))
		}
		p.mu.Unlock()
	}
	return p.cert.Load(), nil
}

func (p *Pair) due() bool { return int64(time.Since(p.opened)) >= p.look.Load() }

// refresh reads the files if they have changed, or if they were in the middle
// of a change when they were read last. p.mu is held.
func (p *Pair) refresh() {
	if p.problem == "" && unchanged(p.certPath, p.files[0]) && unchanged(p.keyPath, p.files[1]) {
		return
	}
	cert, files, err := p.read()
	if err != nil {
		if p.problem != err.Error() {
			p.problem = err.Error()
			p.log.Error("cannot read a certificate again, the previous one stays in use", "cert_path", p.certPath, "err", err)
		}
		return
	}
	p.files, p.problem = files, ""
	p.cert.Store(cert)
	p.log.Info("read a certificate again", "cert_path", p.certPath, "not_after", cert.Leaf.NotAfter)
}

// read reads both files.
func (p *Pair) read() (cert *tls.Certificate, files [2]os.FileInfo, err error) {
	certPEM, certFile, err := readFile(p.certPath)
	if err != nil {
		return nil, files, &conf.FieldError{Path: "certPath", Msg: "cannot read the certificate: " + err.Error(), Err: err}
	}
	keyPEM, keyFile, err := readFile(p.keyPath)
	if err != nil {
		return nil, files, &conf.FieldError{Path: "keyPath", Msg: "cannot read the key: " + err.Error(), Err: err}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, files, &conf.FieldError{Msg: fmt.Sprintf("%s and %s are not a certificate and its key: %v", p.certPath, p.keyPath, err)}
	}
	if pair.Leaf == nil { // so GODEBUG=x509keypairleaf=0 has it
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, files, &conf.FieldError{Path: "certPath", Msg: "cannot read the certificate: " + err.Error(), Err: err}
		}
	}
	return &pair, [2]os.FileInfo{certFile, keyFile}, nil
}

// readFile reads a file and says which one it was. A pipe or device that
// somebody named by mistake must not hold anything up.
func readFile(path string) ([]byte, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, fmt.Errorf("%s is not a file", path)
	case info.Size() > maxSize:
		return nil, nil, fmt.Errorf("%s is larger than %d bytes", path, maxSize)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize))
	return text, info, err
}

// unchanged reports whether path still leads to the file that was read, and
// nobody has written to it.
func unchanged(path string, before os.FileInfo) bool {
	now, err := os.Stat(path)
	return err == nil && os.SameFile(now, before) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime())
}
