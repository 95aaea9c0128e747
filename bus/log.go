package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
)

// serverLog passes the embedded server's log on: warnings and errors as such, notices at debug level.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string] // why the server can't start: it goes on half-started, and only its log says so
}

func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats: " + fmt.Sprintf(format, v...))
}
func (l *serverLog) Warnf(format string, v ...any) { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error("nats: " + fmt.Sprintf(format, v...))
}
func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}

func (l *serverLog) Fatalf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &message)
}

// failure is what was fatal; nil when nothing was.
func (l *serverLog) failure() error {
	message := l.fatal.Load()
	if message == nil {
		return nil
	}
	if strings.Contains(*message, syscall.EADDRINUSE.Error()) {
		return fmt.Errorf("the address is %w: %s", ErrInUse, *message)
	}
	return errors.New(*message)
}
