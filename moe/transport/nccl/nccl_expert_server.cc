#include "moe/transport/nccl/nccl_expert_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/transport/data_plane/admit_router.h"
#include "moe/transport/data_plane/token_book.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/nccl/lane.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/nccl/nccl_peer.h"

namespace conclave {
namespace {

constexpr absl::Duration kGreetTime = absl::Seconds(5);
constexpr absl::Duration kHousekeeping = absl::Seconds(1);
constexpr size_t kPeersMax = 256;
// Ids that routers asked for and have not used yet. NCCL keeps a thread and a socket for each of them for ever, so that
// one whose token has run out unused goes to the next router: only admitted ones ever saw it.
constexpr size_t kIdsUnusedMax = 64;
// After an answer the next call is looked for without sleeping: a layer's rows follow each other closely.
constexpr absl::Duration kSpin = absl::Microseconds(200);

class Server final : public NcclExpertServer {
 public:
  explicit Server(const NcclExpertServerOptions& options)
      : options_(options),
        own_gate_(options.gate == nullptr ? std::make_unique<PeerGate>(options.clock) : nullptr),
        gate_(options.gate == nullptr ? *own_gate_ : *options.gate),
        tokens_(options.clock),
        wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

  ~Server() override {
    stop_ = true;
    Wake();
    if (thread_.joinable()) thread_.join();
    if (listener_ >= 0) close(listener_);
    close(wake_);
  }

  absl::Status Listen(const SocketAddress& address) {
    ASSIGN_OR_RETURN(listener_, ListenOn(address));
    address_ = BoundAddress(listener_);
    thread_ = std::thread([this] { Loop(); });
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }
  void SetHandler(ExpertHandler* handler) override { handler_ = handler; }

  absl::StatusOr<DataPlaneOffer> Connect(const DataPlaneRequest& request) override {
    if (draining_) return absl::UnavailableError("the shard is draining");
    ExpertHandler* const handler = handler_;
    if (handler == nullptr) return absl::UnavailableError("the shard is not ready");
    ASSIGN_OR_RETURN(DataPlaneOffer offer, AdmitRouter(request, handler->Describe(), Carrier::kNccl, gate_, tokens_,
                                                       [&] { return Fits(request); }));
    const absl::StatusOr<NcclId> id = NewId(offer.connection, request.instance);
    if (!id.ok()) {
      gate_.Refuse(Carrier::kNccl, Refusal::kOverload, Peer{request.peer, ""}, id.status().message());
      return id.status();
    }
    offer.address = address_;
    offer.nccl_id.assign(id->bytes, sizeof(id->bytes));
    return offer;
  }

  void Drain(absl::Time deadline) override {
    draining_ = true;
    Wake();
    std::unique_lock<std::mutex> lock(mutex_);
    drained_cv_.wait_until(lock, absl::ToChronoTime(std::min(deadline, absl::Now() + absl::Hours(1))),
                           [&] { return drained_.load(); });
  }

 private:
  struct IdForOne {
    NcclId id = {};
    absl::Time expires;   // its token
    uint64_t router = 0;  // whom the token is for
  };
  absl::Status Fits(const DataPlaneRequest& request) const {
    const int here = options_.api->version;
    if (request.nccl_version != here) {
      return absl::FailedPreconditionError(absl::StrCat("the router has NCCL ", NcclVersionText(request.nccl_version),
                                                        ", this shard ", NcclVersionText(here),
                                                        ": both ends must have the same"));
    }
    if (here < kNcclVersionOneGpuMin && !request.gpu.empty() && request.gpu == options_.gpu) {
      return absl::FailedPreconditionError(absl::StrCat("the router is on this shard's GPU, which takes NCCL ",
                                                        NcclVersionText(kNcclVersionOneGpuMin),
                                                        " or later; here it is ", NcclVersionText(here)));
    }
    return absl::OkStatus();
  }

  // Whether `router` has a place, or one is left. REQUIRES: mutex_ held
  absl::Status FindPlace(uint64_t router, absl::Time now) const {
    std::set<uint64_t> others;
    for (const auto& [connection, id] : ids_) {
      if (id.expires >= now) others.insert(id.router);
    }
    for (const auto& [connection, joined] : joined_) others.insert(joined);
    others.erase(router);
    if (static_cast<int>(others.size()) < options_.routers_max) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("this shard has memory for the rows of ", options_.routers_max,
                     " attention service", options_.routers_max == 1 ? "" : "s",
                     " over NCCL, and as many have connected: start it with a larger --nccl-routers"));
  }

  // For the connection of the router with that instance. RESOURCE_EXHAUSTED: there is no place for it, or too many ids
  // are unused.
  absl::StatusOr<NcclId> NewId(uint64_t connection, uint64_t instance) {
    std::lock_guard<std::mutex> lock(mutex_);
    const absl::Time now = options_.clock->Now();
    IdForOne fresh{{}, now + TokenBook::kTokenLife, instance != 0 ? instance : connection};
    RETURN_IF_ERROR(FindPlace(fresh.router, now));
    if (const auto oldest = ids_.begin(); oldest != ids_.end() && oldest->second.expires < now) {
      fresh.id = oldest->second.id;
      ids_.erase(oldest);
    } else if (ids_.size() >= kIdsUnusedMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(ids_.size(), " routers have asked for NCCL and are to join first"));
    } else {
      RETURN_IF_ERROR(NcclStatus(*options_.api, "a new id", options_.api->get_unique_id(&fresh.id)));
    }
    ids_[connection] = fresh;
    return fresh.id;
  }

  absl::StatusOr<NcclId> TakeId(uint64_t connection) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = ids_.find(connection);
    if (found == ids_.end()) return absl::UnauthenticatedError("the token is too old");
    const NcclId id = found->second.id;
    joined_[connection] = found->second.router;
    ids_.erase(found);
    return id;
  }

  void Wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof(one));
  }

  void Loop() {
    absl::Time now = absl::Now(), sleep_from = now;
    while (!stop_) {
      Accept(now);
      const bool on_device = TakesDeviceRows();
      bool moving = false, served = false;
      absl::Time due = now + kHousekeeping;
      for (size_t i = peers_.size(); i-- > 0;) {
        NcclPeer& peer = *peers_[i];
        NcclOffence offence = peer.Step(now, on_device);
        if (offence.why.ok() && peer.greets()) offence = OnGreeting(peer, now);
        if (offence.why.ok() && peer.has_call()) {
          served = true;
          offence = Serve(peer, on_device);
        }
        if (!offence.why.ok()) {
          CutOff(i, offence);
          continue;
        }
        moving = moving || peer.moving();
        due = std::min(due, peer.give_up_at());
      }
      if (draining_ && !drained_) FinishDrain();
      now = absl::Now();
      if (served) sleep_from = now + kSpin;
      if (moving || served || now < sleep_from) continue;
      Sleep(due - now);
      now = absl::Now();
    }
    while (!peers_.empty()) CutOff(peers_.size() - 1, {absl::CancelledError("shutting down")});
  }

  bool TakesDeviceRows() const {
    ExpertHandler* const handler = handler_;
    return handler != nullptr && handler->TakesDeviceRows();
  }

  // Until something comes over a lane, or `duration` has passed.
  void Sleep(absl::Duration duration) {
    polled_.clear();
    polled_.push_back({wake_, POLLIN, 0});
    polled_.push_back({listener_, POLLIN, 0});
    for (const auto& peer : peers_) {
      polled_.push_back(
          {peer->lane().socket(), static_cast<short>(POLLIN | (peer->lane().sending() ? POLLOUT : 0)), 0});
    }
    const timespec timeout = absl::ToTimespec(std::max(duration, absl::ZeroDuration()));
    ppoll(polled_.data(), polled_.size(), &timeout, nullptr);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(wake_, &count, sizeof(count));
  }

  void Accept(absl::Time now) {
    std::string host;
    for (int socket = AcceptFrom(listener_, &host); socket >= 0; socket = AcceptFrom(listener_, &host)) {
      // Behind a host in quarantine may also be a router that was let in a moment ago.
      const bool welcome = !draining_ && peers_.size() < kPeersMax && (gate_.Admit(host).ok() || tokens_.Expecting());
      if (welcome) {
        peers_.push_back(std::make_unique<NcclPeer>(options_, socket, host, now + kGreetTime));
        continue;
      }
      gate_.Refuse(Carrier::kNccl, Refusal::kConnection, Peer{"", host},
                   "too many connections, draining, or in quarantine");
      close(socket);
    }
  }

  NcclOffence OnGreeting(NcclPeer& peer, absl::Time now) {
    const uint64_t connection = peer.greeting().header.connection;
    absl::StatusOr<std::string> name = tokens_.Redeem(connection, peer.greeting().text());
    if (!name.ok()) {
      peer.Refuse(name.status());
      return {name.status(), true, Refusal::kToken};
    }
    const absl::StatusOr<NcclId> id = TakeId(connection);
    if (!id.ok()) {
      peer.Refuse(id.status());
      return {id.status()};
    }
    const absl::Status joining = peer.Welcome(*std::move(name), *id, now);
    if (joining.ok()) LogInfo(absl::StrCat("nccl: ", peer.peer().Who(), " connected"));
    return {joining};
  }

  NcclOffence Serve(NcclPeer& peer, bool on_device) {
    const absl::StatusOr<ExpertCall> call = peer.Call(on_device);
    absl::Status status = call.status();
    if (status.ok() && draining_) status = absl::UnavailableError("the shard is draining");
    if (status.ok()) {
      const absl::StatusOr<MatView> out = peer.Out(*call, on_device);
      status = out.status();
      if (status.ok()) status = handler_.load()->Run(*call, *out);
    }
    const absl::Status answered = peer.Answer(status, on_device, absl::Now());
    // Refused, and the connection stays until there are too many of them.
    if (absl::IsInvalidArgument(status) &&
        gate_.Offend(Carrier::kNccl, Refusal::kCall, peer.peer(), status.message())) {
      return {status};
    }
    return {answered};
  }

  void CutOff(size_t index, const NcclOffence& offence) {
    NcclPeer& peer = *peers_[index];
    if (offence.hostile) gate_.Offend(Carrier::kNccl, offence.kind, peer.peer(), offence.why.message());
    LogInfo(absl::StrCat("nccl: ", peer.peer().Who(), " is gone: ", std::string(offence.why.message())));
    reaper_.Take(peer.TakePair());
    {
      std::lock_guard<std::mutex> lock(mutex_);
      joined_.erase(peer.connection());
    }
    peers_.erase(peers_.begin() + static_cast<int64_t>(index));
  }

  void FinishDrain() {
    if (!std::all_of(peers_.begin(), peers_.end(), [](const auto& peer) { return peer->quiet(); })) return;
    while (!peers_.empty()) CutOff(peers_.size() - 1, {absl::UnavailableError("the shard is draining")});
    std::lock_guard<std::mutex> lock(mutex_);
    drained_ = true;
    drained_cv_.notify_all();
  }

  const NcclExpertServerOptions options_;
  const std::unique_ptr<PeerGate> own_gate_;  // null: another's is used
  PeerGate& gate_;
  TokenBook tokens_;
  std::string address_;
  std::atomic<ExpertHandler*> handler_{nullptr};
  std::atomic<bool> stop_{false}, draining_{false};
  std::mutex mutex_;
  std::condition_variable drained_cv_;
  std::atomic<bool> drained_{false};  // written under mutex_
  std::map<uint64_t, IdForOne> ids_;     // guarded by mutex_; by connection, which count up
  std::map<uint64_t, uint64_t> joined_;  // guarded by mutex_; by connection, the router that has it

  const int wake_;
  int listener_ = -1;
  // The thread's own.
  NcclReaper reaper_;
  std::vector<std::unique_ptr<NcclPeer>> peers_;
  std::vector<pollfd> polled_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclExpertServer>> NcclExpertServer::Start(const NcclExpertServerOptions& options) {
  ASSIGN_OR_RETURN(const SocketAddress address, SocketAddress::Parse(options.address));
  auto server = std::make_unique<Server>(options);
  if (absl::Status listening = server->Listen(address); !listening.ok()) {
    return absl::UnavailableError(absl::StrCat("cannot listen for call headers on ", options.address, ": ",
                                               std::string(listening.message()), "; is the port in use?"));
  }
  return std::unique_ptr<NcclExpertServer>(std::move(server));
}

}  // namespace conclave
