#include "supervisor.h"

enum { PORT_CONSOLE = 0xe9, PORT_POWER = 0x8900 };

void print_bytes(const char *text, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++)
        port_write(PORT_CONSOLE, (uint8_t)text[i]);
}

void print(const char *text) {
    while (*text)
        port_write(PORT_CONSOLE, (uint8_t)*text++);
}

void print_hex(uint64_t value) {
    print("0x");
    for (int shift = 60; shift >= 0; shift -= 4)
        port_write(PORT_CONSOLE, (uint8_t) "0123456789abcdef"[value >> shift & 15]);
}

void print_decimal(uint64_t value) {
    char digits[24];
    uint64_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print_bytes(digits + first, sizeof digits - first);
}

void power_off(uint64_t exit_status) {
    print("\n[supervisor] exit status ");
    print_decimal(exit_status);
    print(" after ");
    print_decimal(instructions());
    print(" instructions\n");
    for (const char *letter = "Shutdown"; *letter; letter++) /* Bochs knows this word */
        port_write(PORT_POWER, (uint8_t)*letter);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void die_of_signal(uint64_t signal, const char *why) {
    print("\n[supervisor] ");
    print(why);
    print(": signal ");
    print_decimal(signal);
    print("\n");
    power_off(128 + signal);
}
