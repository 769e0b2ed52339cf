// A call on its way as its router sees it: what is sent, and what has come of the reply. Internal to the UCX transport.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_FLIGHT_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_FLIGHT_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/transport.h"
#include "moe/transport/ucx/ucx_fetch.h"
#include "moe/transport/ucx/ucx_link.h"

namespace conclave {

// Used by the transport's thread alone. Kept for its buffers when it is over.
struct UcxFlight {
  // `memory`: of rows and results that are staged; may be null.
  explicit UcxFlight(const HostMemory& memory) : packed(memory), staged_out(memory) {}

  // A new call takes the place of one that is over. Everything of its message but what the connection decides.
  void Begin(ShardId to, const ExpertCall& call, MatView results, absl::Time now);
  // Where the message's rows lie on the host, in one piece.
  void PlaceRows(bool pack);
  // Brings rows from the device to the host, and has results come there first, for a shard that takes no others. Waits
  // for the rows. Errors are the device's.
  absl::Status Stage(DeviceStream& stream);
  // Of a call that was staged: waits until all results, with `ok`, or those that came have gone on to the device.
  absl::Status Land(bool ok, DeviceStream& stream);

  // Takes in a fragment of the reply. True: it is whole. DATA_LOSS: it is not the reply to this call, or was damaged.
  // stream: of staged calls.
  absl::StatusOr<bool> Accept(const WireHeader& fragment, const std::byte* data, int64_t bytes, DeviceStream* stream);
  // The results are offered, all of them. Errors as Accept.
  absl::Status AcceptOffer(const WireHeader& fragment, int64_t bytes) const;

  bool on_device() const { return rows.device == Device::kCuda; }
  bool staged() const { return device_out.data != nullptr; }
  // UCX has let go of its memory.
  bool idle() const { return message.idle() && !fetch.moving(); }
  // What a call in flight has yet to move: its request, of which it is not known how far it is, and its reply.
  int64_t bytes_moving() const;

  uint64_t call_id = 0;
  ShardId shard{0};
  ConstMatView rows;
  const DeviceEvent* ready = nullptr;  // of rows on the device; null: they are complete
  bool rows_stay = false;              // as ExpertCall's
  RowFormat format = RowFormat::kCompute;
  MatView out;
  OutgoingMessage message;
  BodyBuffer meta;
  BodyBuffer packed;      // the rows, where they are strided, packed or staged
  BodyBuffer staged_out;  // the results, where they are staged, on their way to …
  MatView device_out;     // … here
  UcxFetch fetch;         // of results on the device
  bool waiting = false;   // for its connection, or for its rows
  bool over = false;      // with `status`; only its message is not idle yet
  absl::Status status;
  absl::Time let_go_by = absl::InfiniteFuture();  // where it is over
  absl::Time sent;
  bool is_long = false;   // it takes longer than anybody spins
  uint64_t received = 0;  // bytes of the reply
  uint64_t landed = 0;    // bytes of it that are on their way to the device
  WireChecksum checksum;  // of the reply so far; replies of several calls may interleave

 private:
  absl::Status Check(const WireHeader& fragment) const;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_FLIGHT_H_
