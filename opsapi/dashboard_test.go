package opsapi_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/opsapi/dashboard"
)

const dashboardPassword = "s3cret-password-of-the-desk"

// openDashboard starts a Server that serves the dashboard.
func openDashboard(t *testing.T, log *slog.Logger, opts ...opsapi.Option) *opsapi.Server {
	t.Helper()
	s, err := opsapi.New(opsapi.Config{
		Port: new(int), Admin: opsapi.Admin{Username: "admin", Password: dashboardPassword},
		Users: []opsapi.User{{Username: "vera", Password: dashboardPassword, Role: "viewer"}},
	}, append([]opsapi.Option{opsapi.WithLogger(log), opsapi.WithDashboard(dashboard.Files())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return s
}

// TestDashboardFiles holds for the files alone, where there is no browser.
func TestDashboardFiles(t *testing.T) {
	total := 0
	// What the content security policy forbids in pages.
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|<script(?:[^>]*)>[^<]|\son\w+="`)
	sinks := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\('style'`)
	err := fs.WalkDir(dashboard.Files(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dashboard.Files(), name)
		if err != nil {
			return err
		}
		var zipped bytes.Buffer
		w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		total += zipped.Len()
		if strings.HasSuffix(name, ".html") && inline.Match(data) {
			t.Errorf("%s has %q", name, inline.Find(data))
		}
		if strings.HasSuffix(name, ".js") && sinks.Match(data) {
			t.Errorf("%s has %q", name, sinks.Find(data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if total == 0 || total > 60_000 {
		t.Errorf("all files are %d bytes with gzip, 60,000 are the most", total)
	}
	t.Logf("%d bytes with gzip", total)
}

// installDriver gets the browser's driver and the checkers from the registry.
func installDriver(t *testing.T) (folder string) {
	t.Helper()
	testenv.Need(t, "node", "apt-get install nodejs")
	npm := testenv.Need(t, "npm", "apt-get install npm")
	folder = testenv.Folder(t)
	entries, err := os.ReadDir(filepath.Join("testdata", "dashboard"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join("testdata", "dashboard", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, e.Name()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = folder
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		testenv.Lacks(t, "npm cannot install the browser's driver: %v\n%s", err, out)
	}
	return folder
}

// TestDashboardInChromium drives the dashboard in Chromium, against a Server with
// everything and one with nothing. With DASHBOARD_SCREENSHOTS=folder it leaves
// pictures of all pages there.
func TestDashboardInChromium(t *testing.T) {
	testenv.Goroutines(t)
	chromium := testenv.Need(t, "chromium", "apt-get install chromium")
	folder := installDriver(t)

	t.Run("types", func(t *testing.T) {
		static, err := filepath.Abs(filepath.Join("dashboard", "static"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, filepath.Join(folder, "node_modules", ".bin", "tsc"), "-p", static).CombinedOutput(); err != nil {
			t.Errorf("tsc: %v\n%s", err, out)
		}
	})

	logs := opsapi.NewLogBuffer(nil)
	log := slog.New(logs)
	g, err := newGateway(log)
	if err != nil {
		t.Fatal(err)
	}
	full := openDashboard(t, log, append(g.options(), opsapi.WithLogs(logs))...)
	bare := openDashboard(t, slog.New(slog.DiscardHandler))
	full.ReportSecurity(opsapi.SecurityEvent{Kind: "rate-limit", Component: "proxy", Severity: opsapi.SeverityWarning, Message: "a client opens too many connections", Subject: "198.51.100.77"})
	full.ReportSecurity(opsapi.SecurityEvent{Kind: "relay", Component: "email", Severity: opsapi.SeverityCritical, Message: "somebody tries to relay mail <b>again</b>"})

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "drive.mjs")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium, "FULL=http://"+full.Addr().String(), "BARE=http://"+bare.Addr().String(), "PASSWORD="+dashboardPassword)
	cmd.WaitDelay = 5 * time.Second
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("the driver: %v\n%s", err, errors.String())
	}
	steps := json.NewDecoder(bytes.NewReader(out))
	for {
		var step struct {
			Name     string
			Error    string
			Millis   int
			Findings []string
		}
		if err := steps.Decode(&step); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		t.Run(step.Name, func(t *testing.T) {
			t.Logf("%d ms", step.Millis)
			if step.Error != "" {
				t.Error(step.Error)
			}
			for _, f := range step.Findings {
				t.Error(f)
			}
		})
	}
	// What came through to the host.
	for _, want := range []string{"apply port 9090", "apply port 8080", "apply port 9191", "release 01JDW2H3B8", "disconnect k1", "records +1 -0", "suppress new@example.net", "renew cdn.example.com"} {
		if !slices.Contains(g.asked(), want) {
			t.Errorf("nobody asked the host for %q, but for %q", want, g.asked())
		}
	}
}
