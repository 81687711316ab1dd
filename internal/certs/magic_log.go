package certs

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger is a logger for certmagic that writes to ours. What certmagic tells
// of its steps is for those who look closely: what became of a certificate is
// said by this package.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(&zapCore{log: log})
}

type zapCore struct{ log *slog.Logger }

// level is at most info: of what goes wrong this package warns itself.
func level(l zapcore.Level) slog.Level {
	if l >= zapcore.WarnLevel {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled reports whether a level is logged.
func (c *zapCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), level(l))
}

// With returns a core that adds fields.
func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{c.log.With(attrs(fields)...)}
}

// Check adds the core to those that write an entry.
func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write logs an entry.
func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(context.Background(), level(e.Level), "certmagic: "+e.Message, attrs(fields)...)
	return nil
}

// Sync does nothing: nothing waits to be written.
func (c *zapCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	list := make([]any, 0, len(fields))
	for _, f := range fields {
		if f.Type == zapcore.ErrorType {
			if err, ok := f.Interface.(error); ok {
				list = append(list, slog.String(f.Key, errorText(err)))
			}
			continue
		}
		f.AddTo(enc)
	}
	for k, v := range enc.Fields {
		list = append(list, slog.Any(k, v))
	}
	return list
}
