//go:build !linux

package spool

import "os"

func preallocate(*os.File, int64) error { return nil }

func syncData(f *os.File) error { return f.Sync() }
