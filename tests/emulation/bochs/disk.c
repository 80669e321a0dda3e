/* An ATA disk, read by the processor itself, polling. */
#include "supervisor.h"

enum {
    PORT_DATA = 0x1f0,
    PORT_COUNT = 0x1f2,
    PORT_ADDRESS = 0x1f3, /* and the next two: 8 bits each */
    PORT_DRIVE = 0x1f6,   /* the address' highest 4 bits */
    PORT_STATUS = 0x1f7,
    PORT_COMMAND = 0x1f7,
    PORT_CONTROL = 0x3f6,
};
enum { STATUS_ERROR = 1, STATUS_DATA = 8, STATUS_BUSY = 0x80 };
enum { COMMAND_READ = 0x20, CONTROL_NO_INTERRUPTS = 2, DRIVE_FIRST_BY_ADDRESS = 0xe0 };
enum { SECTOR_BYTES = 512, MAX_SECTORS = 256, MAX_PARTS = 8 };

static void wait_until_free(void) {
    while (port_read(PORT_STATUS) & STATUS_BUSY) {
    }
}

static void wait_for_data(void) {
    uint8_t status;
    do
        status = port_read(PORT_STATUS);
    while ((status & STATUS_BUSY) || !(status & (STATUS_DATA | STATUS_ERROR)));
    if (status & STATUS_ERROR) {
        print("[supervisor] the disk cannot be read\n");
        power_off(1);
    }
}

static void start_reading(uint64_t sector, uint64_t count) {
    wait_until_free();
    port_write(PORT_DRIVE, (uint8_t)(DRIVE_FIRST_BY_ADDRESS | (sector >> 24 & 15)));
    port_write(PORT_COUNT, (uint8_t)count); /* 0 stands for 256 */
    for (uint16_t i = 0; i < 3; i++)
        port_write((uint16_t)(PORT_ADDRESS + i), (uint8_t)(sector >> 8 * i));
    port_write(PORT_COMMAND, COMMAND_READ);
}

static void read_sectors(uint64_t sector, uint64_t count, void *to) {
    while (count) {
        uint64_t now = count < MAX_SECTORS ? count : MAX_SECTORS;
        start_reading(sector, now);
        for (uint64_t i = 0; i < now; i++) {
            uint64_t words = SECTOR_BYTES / 2;
            wait_for_data();
            __asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"(PORT_DATA) : "memory");
        }
        sector += now;
        count -= now;
    }
}

/* The first sector. */
typedef struct header {
    char magic[8];
    uint64_t num_parts;
    struct {
        uint64_t address, first_sector, num_sectors;
    } parts[MAX_PARTS];
    char rest[SECTOR_BYTES - 16 - 24 * MAX_PARTS];
} header;

void disk_load(void) {
    static header first;
    port_write(PORT_CONTROL, CONTROL_NO_INTERRUPTS);
    read_sectors(0, 1, &first);
    for (int i = 0; i < 8; i++)
        if (first.magic[i] != "FBDISK01"[i] || first.num_parts > MAX_PARTS) {
            print("[supervisor] this is not run.py's disk\n");
            power_off(1);
        }
    for (uint64_t i = 0; i < first.num_parts; i++)
        read_sectors(first.parts[i].first_sector, first.parts[i].num_sectors,
                     (void *)first.parts[i].address);
}
