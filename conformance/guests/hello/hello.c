/* The least guest: it prints a line and uses no wasi-nn, to measure what starting costs. */
#include <unistd.h>

int main(void) {
    static const char text[] = "hello, wasi-nn\n";
    return write(1, text, sizeof text - 1) == sizeof text - 1 ? 0 : 1;
}
