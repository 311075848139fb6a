package worker

import (
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/log"
)

// Logger lets the Temporal SDK log through zerolog.
func Logger(z zerolog.Logger) log.Logger { return logger{z} }

type logger struct{ z zerolog.Logger }

func (l logger) Debug(msg string, keyvals ...any) { l.z.Debug().Fields(keyvals).Msg(msg) }
func (l logger) Info(msg string, keyvals ...any)  { l.z.Info().Fields(keyvals).Msg(msg) }
func (l logger) Warn(msg string, keyvals ...any)  { l.z.Warn().Fields(keyvals).Msg(msg) }
func (l logger) Error(msg string, keyvals ...any) { l.z.Error().Fields(keyvals).Msg(msg) }
