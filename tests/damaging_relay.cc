// Passes bytes between ports of its own and targets, and flips a bit in some of the large pieces, which are
// activations. For tests of what damage on the way does.
//   damaging_relay --target HOST:PORT --target HOST:PORT ... [--seed N]
// The first line of output is a JSON array: where each target is reached. Then it obeys lines of input:
//   damage INDEX SHARE    of the large pieces from and to that target are damaged from now on
//   count INDEX           prints how many have been
// and ends with its input.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/daemon/flags.h"
#include "moe/transport/data_plane/socket_address.h"

namespace conclave {
namespace {

// Smaller pieces are control messages and acknowledgements; the head of a large one is HTTP/2's own framing.
constexpr ssize_t kLargePieceBytes = 1000, kHeadBytes = 500;

struct Target {
  Target(const SocketAddress& to, int listening) : address(to), listener(listening) {}
  const SocketAddress address;
  const int listener;
  std::atomic<double> damage{0};
  std::atomic<int64_t> damaged{0};
};

// Nothing waits for a full segment: forty milliseconds of delayed acknowledgement would be ours, not the cluster's.
void SendAtOnce(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

bool SendAll(int to, const char* bytes, ssize_t count) {
  while (count > 0) {
    const ssize_t sent = send(to, bytes, static_cast<size_t>(count), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes += sent;
    count -= sent;
  }
  return true;
}

// One direction of one connection, until either side goes.
void Pump(int from, int to, Target& target, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::array<char, 65536> piece;
  for (ssize_t got = 0; (got = recv(from, piece.data(), piece.size(), 0)) > 0;) {
    const double draw = static_cast<double>(random() >> 11) * 0x1p-53;
    const uint64_t bit = random();
    if (got > kLargePieceBytes && draw < target.damage) {
      piece[kHeadBytes + bit / 8 % (got - kHeadBytes)] ^= static_cast<char>(1 << bit % 8);
      ++target.damaged;
    }
    if (!SendAll(to, piece.data(), got)) break;
  }
  shutdown(from, SHUT_RDWR);
  shutdown(to, SHUT_RDWR);
}

void Serve(int client, Target& target, uint64_t seed) {
  const int server = socket(target.address.get()->sa_family, SOCK_STREAM, 0);
  if (connect(server, target.address.get(), target.address.length()) == 0) {
    SendAtOnce(client);
    SendAtOnce(server);
    std::thread back([&] { Pump(server, client, target, seed + 1); });
    Pump(client, server, target, seed);
    back.join();
  }
  close(server);
  close(client);
}

void Accept(Target& target, uint64_t seed) {
  for (;; seed += 2) {
    const int client = accept(target.listener, nullptr, nullptr);
    if (client >= 0) std::thread(Serve, client, std::ref(target), seed).detach();
  }
}

// A listening socket on loopback; its address is filled in.
int Listen(std::string* address) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in any = {};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(any);
  if (bind(listener, reinterpret_cast<sockaddr*>(&any), length) != 0 || listen(listener, 64) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&any), &length) != 0) {
    std::cerr << "damaging_relay: cannot listen on loopback\n";
    std::exit(1);
  }
  *address = absl::StrCat("127.0.0.1:", ntohs(any.sin_port));
  return listener;
}

int Main(int argc, char** argv) {
  std::vector<std::string> wanted;
  int seed = 1;
  Flags flags("damaging_relay", "Relays connections and damages what passes.");
  flags.Add("target", &wanted, "numeric host:port, where connections go");
  flags.Add("seed", &seed, "of the damage");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return ExitWith("damaging_relay", parsed.status(), 2);
  if (!*parsed) return 0;
  std::vector<std::unique_ptr<Target>> targets;
  nlohmann::json addresses = nlohmann::json::array();
  for (const std::string& target : wanted) {
    const absl::StatusOr<SocketAddress> to = SocketAddress::Parse(target);
    if (!to.ok()) return ExitWith("damaging_relay", to.status(), 2);
    std::string address;
    targets.push_back(std::make_unique<Target>(*to, Listen(&address)));
    addresses.push_back(address);
    std::thread(Accept, std::ref(*targets.back()), uint64_t{1000003} * seed + targets.size()).detach();
  }
  std::cout << addresses.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    size_t index = 0;
    double share = 0;
    if (!(words >> verb >> index) || index >= targets.size()) continue;
    if (verb == "damage" && words >> share) targets[index]->damage = share;
    if (verb == "count") std::cout << targets[index]->damaged << std::endl;
  }
  std::_Exit(0);  // its threads wait for connections
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
