// Package dashboard has the files of the web interface that package opsapi
// serves:
//
//	s, err := opsapi.New(config, opsapi.WithDashboard(dashboard.Files()), ...)
//
// They are plain HTML, CSS and ES modules, served as they are: there is no build
// step, and what one reads in static is what runs. static/types.d.ts has the
// types that their JSDoc comments speak of; it is checked by the tests and not
// served.
//
// The page keeps to a strict content security policy: no inline script or style,
// nothing from elsewhere, and no markup made of strings (Trusted Types).
package dashboard

import (
	"embed"
	"io/fs"
)

//go:embed static/*.html static/*.css static/*.js static/*.svg static/lib/*.js static/pages/*.js
var files embed.FS

// Files returns the files, with index.html at the top.
func Files() fs.FS {
	static, err := fs.Sub(files, "static")
	if err != nil { // unreachable: the name is a valid path
		return files
	}
	return static
}
