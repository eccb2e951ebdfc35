// A mochi-mqtt broker on loopback whose sessions are in a file: main ADDRESS FILE.
package main

import (
	"log"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"
	"github.com/mochi-mqtt/server/v2/listeners"
	"go.etcd.io/bbolt"
)

func main() {
	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumMessageExpiryInterval = 7 * 86400
	capabilities.MaximumInflight = math.MaxUint16 - 1
	capabilities.ReceiveMaximum = math.MaxUint16 - 1
	capabilities.MaximumClientWritesPending = 200_000
	server := mqtt.New(&mqtt.Options{Capabilities: capabilities})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		log.Fatal(err)
	}
	options := &bolt.Options{Path: os.Args[2], Options: &bbolt.Options{Timeout: 500 * time.Millisecond, NoSync: true}}
	if err := server.AddHook(new(bolt.Hook), options); err != nil {
		log.Fatal(err)
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "mqtt", Address: os.Args[1]})); err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		log.Fatal(err)
	}
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGINT, syscall.SIGTERM)
	<-ending
	_ = server.Close()
}
