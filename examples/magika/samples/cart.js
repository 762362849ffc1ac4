'use strict';

const { EventEmitter } = require('node:events');

class Cart extends EventEmitter {
  #items = new Map();

  add(sku, price, quantity = 1) {
    const line = this.#items.get(sku) ?? { price, quantity: 0 };
    line.quantity += quantity;
    this.#items.set(sku, line);
    this.emit('change', this.total());
  }

  total() {
    let sum = 0;
    for (const { price, quantity } of this.#items.values()) sum += price * quantity;
    return Math.round(sum * 100) / 100;
  }
}

const cart = new Cart();
cart.on('change', (total) => console.log(`total: ${total.toFixed(2)}`));
cart.add('tea', 3.5, 2);
cart.add('cup', 7.25);

module.exports = { Cart };
