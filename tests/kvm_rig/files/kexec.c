// Starts a second kernel in a guest: kexec KERNEL INITRD COMMAND-LINE. With -p before these, the second one waits until
// the first has crashed (kdump). Debian's kexec-tools need a dozen libraries.

#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
    int kernel, initrd, waits = count > 1 && !strcmp(words[1], "-p");
    if (count != 4 + waits) {
        fprintf(stderr, "usage: kexec [-p] KERNEL INITRD COMMAND-LINE\n");
        return 2;
    }
    words += waits;
    kernel = open(words[1], O_RDONLY | O_CLOEXEC);
    initrd = open(words[2], O_RDONLY | O_CLOEXEC);
    if (kernel < 0 || initrd < 0) {
        perror("kexec: the files cannot be opened");
        return 1;
    }
    if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(words[3]) + 1, words[3],
                waits ? KEXEC_FILE_ON_CRASH : 0UL)) {
        perror("kexec: the kernel was not loaded");
        return 1;
    }
    if (waits)
        return 0;
    sync();
    reboot(LINUX_REBOOT_CMD_KEXEC);
    perror("kexec: the kernel was not started");
    return 1;
}
