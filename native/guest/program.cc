#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptor.h"

namespace guest {

namespace {

constexpr size_t kComplaintsMax = 4096;

struct Pipe {
  Descriptor from, to;
  bool open() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return false;
    from = Descriptor(fds[0]);
    to = Descriptor(fds[1]);
    return true;
  }
};

void keepNonBlocking(const Descriptor& descriptor) { fcntl(descriptor.fd(), F_SETFL, O_NONBLOCK); }

/** False: that was all. What is longer than `max` loses its beginning or, of output, is cut: the caller sees that by its length. */
bool drain(const Descriptor& from, std::string& text, size_t max, bool keepEnd) {
  char bytes[4096];
  for (;;) {
    const ssize_t got = read(from.fd(), bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    text.append(bytes, static_cast<size_t>(got));
    if (text.size() <= max) continue;
    if (keepEnd) text.erase(0, text.size() - max);
    else text.resize(max + 1);
  }
}

/** False: it takes no more. */
bool feed(const Descriptor& to, Bytes& input) {
  while (input.length > 0) {
    const ssize_t written = write(to.fd(), input.data, input.length);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno == EAGAIN;
    input.data += written;
    input.length -= static_cast<size_t>(written);
  }
  return false;
}

int spawn(const std::vector<std::string>& words, const Pipe& in, const Pipe& out, const Pipe& err, pid_t& pid) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.from.fd(), 0);
  posix_spawn_file_actions_adddup2(&actions, out.to.fd(), 1);
  posix_spawn_file_actions_adddup2(&actions, err.to.fd(), 2);
  // This process ignores SIGPIPE; a program need not know.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const int error = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

}  // namespace

Ran runProgram(const std::vector<std::string>& words, Bytes input, size_t outputMax) {
  Ran ran;
  Pipe in, out, err;
  if (!in.open() || !out.open() || !err.open()) {
    ran.error = errno;
    return ran;
  }
  pid_t pid = 0;
  ran.error = spawn(words, in, out, err, pid);
  if (ran.error != 0) return ran;
  in.from.close();
  out.to.close();
  err.to.close();
  for (const Descriptor* each : {&in.to, &out.from, &err.from}) keepNonBlocking(*each);
  Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  bool ended = !process.isOpen();
  while (!ended) {
    pollfd polled[] = {{process.fd(), POLLIN, 0}, {in.to.fd(), POLLOUT, 0}, {out.from.fd(), POLLIN, 0}, {err.from.fd(), POLLIN, 0}};
    if (poll(polled, 4, -1) < 0 && errno != EINTR) break;
    ended = polled[0].revents != 0;
    if (polled[1].revents != 0 && !feed(in.to, input)) in.to.close();
    if (polled[2].revents != 0 && !drain(out.from, ran.output, outputMax, false)) out.from.close();
    if (polled[3].revents != 0 && !drain(err.from, ran.complaints, kComplaintsMax, true)) err.from.close();
  }
  in.to.close();
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (out.from.isOpen()) drain(out.from, ran.output, outputMax, false);
  if (err.from.isOpen()) drain(err.from, ran.complaints, kComplaintsMax, true);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}

}  // namespace guest
