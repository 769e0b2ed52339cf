// A transport that misbehaves on purpose, for tests: it drops, delays, duplicates and corrupts what another transport
// carries, by seed and probabilities.
#ifndef CONCLAVE_MOE_TRANSPORT_FAULTY_FAULTY_TRANSPORT_H_
#define CONCLAVE_MOE_TRANSPORT_FAULTY_FAULTY_TRANSPORT_H_

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/transport/call_table.h"
#include "moe/transport/transport.h"

namespace conclave {

// Probabilities in [0, 1], drawn for each call on its own.
struct FaultyOptions {
  uint64_t seed = 0;
  double drop_request = 0;  // the shard never sees the call
  double drop_reply = 0;    // the shard runs it, and the caller never hears of it
  double delay = 0;         // the reply comes up to delay_max late, so that replies overtake each other
  absl::Duration delay_max = absl::Milliseconds(5);
  double duplicate = 0;       // the call is sent twice, and two replies come back
  double corrupt_status = 0;  // the reply is found damaged: DATA_LOSS
  double corrupt_bytes = 0;   // one bit of the reply is damaged
  bool checksum = false;      // which is then noticed, as DATA_LOSS; else one bit of `out` is wrong
};

// What was done to the calls so far.
struct FaultyCounts {
  int64_t calls = 0, dropped = 0, delayed = 0, duplicated = 0, corrupted = 0;
  int64_t replies_unwanted = 0;  // late or duplicate
};

// Used by one thread. The draws depend on the seed and on the order of calls alone.
class FaultyTransport final : public Transport {
 public:
  // `inner` and `clock`, by which deadlines and delays go, must outlive the transport.
  FaultyTransport(Transport& inner, const FaultyOptions& options, Clock* clock = Clock::Real());
  ~FaultyTransport() override;

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override;
  void Cancel(uint64_t call_id) override;
  int Progress(absl::Duration wait) override;
  int shards() const override { return inner_.shards(); }
  const char* Way(ShardId shard) const override { return inner_.Way(shard); }
  const FaultyCounts& counts() const { return counts_; }

 private:
  struct Flight;
  double Uniform();
  bool Draw(double probability);
  void Launch(ShardId shard, const ExpertCall& call, bool reply_dropped);
  void Deliver(Flight& flight);
  absl::Time DeliverDue(absl::Time now);

  Transport& inner_;
  const FaultyOptions options_;
  Clock* const clock_;
  std::mt19937_64 random_;
  FaultyCounts counts_;
  CallTable table_;
  uint64_t next_flight_ = 1;  // the inner transport's call ids
  absl::flat_hash_map<uint64_t, std::unique_ptr<Flight>> flights_;
  std::vector<std::unique_ptr<Flight>> landed_;  // answered, and waiting for their delay to pass
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_FAULTY_FAULTY_TRANSPORT_H_
