package bus

import (
	"fmt"
	"log/slog"
	"sync/atomic"
)

// serverLog passes the embedded server's log on: warnings and errors as such, notices at debug level.
type serverLog struct {
	log  *slog.Logger
	last atomic.Pointer[string]
}

func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats: " + fmt.Sprintf(format, v...))
}
func (l *serverLog) Warnf(format string, v ...any)  { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l *serverLog) Errorf(format string, v ...any) { l.err(fmt.Sprintf(format, v...)) }
func (l *serverLog) Fatalf(format string, v ...any) { l.err(fmt.Sprintf(format, v...)) }
func (l *serverLog) Debugf(string, ...any)          {}
func (l *serverLog) Tracef(string, ...any)          {}

func (l *serverLog) err(message string) {
	l.last.Store(&message)
	l.log.Error("nats: " + message)
}

// lastError is the newest error that the server logged: when it does not start, that is why.
func (l *serverLog) lastError() string {
	if message := l.last.Load(); message != nil {
		return *message
	}
	return "it gave no reason"
}
