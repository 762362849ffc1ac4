package main

import (
	"encoding/json"
	"log"
	"net/http"
	"sync"
)

type counter struct {
	mu   sync.Mutex
	hits map[string]int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hits[r.URL.Path]++
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(c.hits); err != nil {
		log.Printf("encoding: %v", err)
	}
}

func main() {
	c := &counter{hits: make(map[string]int)}
	log.Fatal(http.ListenAndServe("localhost:8080", c))
}
