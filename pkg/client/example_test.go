package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/pollcast/pollcast/pkg/client"
)

// Watch a host until Ctrl-C. The client reports a lost gateway and reconnects by
// itself.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	c, err := client.New(client.Options{URL: "ws://localhost:12080/v1/ws"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, []string{"host.>"}, client.SubscribeOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for u := range sub.Updates() {
		switch u := u.(type) {
		case *client.Event:
			fmt.Println(u.Topic, u.Version, u.Age, string(u.Data))
		case *client.Freshness:
			if u.Changed && u.Stale {
				fmt.Println(u.Poll, "is stale:", u.Reason, u.Detail)
			}
		case *client.Gap:
			fmt.Println(u.Topic, "missed", u.Missed(), "events")
		case *client.Connection:
			if !u.Connected {
				fmt.Println("no gateway:", u.Err, "- next try in", u.RetryIn)
			}
		}
	}
	if err := sub.Err(); err != nil {
		log.Fatal(err)
	}
}

// Read the last value whenever it is needed, and how far it can be trusted.
func ExampleClient_Value() {
	c, err := client.New(client.Options{URL: "ws://localhost:12080/v1/ws"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(context.Background(), []string{"host.system.status"}, client.SubscribeOptions{})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for range sub.Updates() { // the channel must be read
		}
	}()

	v, ok := c.Value("host.system.status")
	switch {
	case !ok:
		fmt.Println("nothing known yet")
	case v.Stale:
		fmt.Printf("%s, but %v old: %s\n", v.Data, v.Age, v.Reason)
	default:
		fmt.Printf("%s\n", v.Data)
	}
}

// Resume after a restart of the program with the events that were published
// meanwhile.
func ExampleSubscribeOptions_since() {
	load := func() *client.Position { return nil } // load it from the program's store
	save := func(client.Position) {}

	c, err := client.New(client.Options{URL: "wss://pollcast.example.com"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(context.Background(), []string{"eth.head"}, client.SubscribeOptions{Since: load()})
	if err != nil {
		log.Fatal(err)
	}
	for u := range sub.Updates() {
		switch u := u.(type) {
		case *client.Resumed:
			if !u.Complete {
				fmt.Println("some events were missed:", u.Reason)
			}
		case *client.Event:
			var head int
			if err := json.Unmarshal(u.Data, &head); err != nil {
				log.Fatal(err)
			}
			fmt.Println(head)
			save(u.Position())
		}
	}
}
