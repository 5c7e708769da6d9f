/** Clear JSON documents (`config`, key slots): read member by member, so that nothing unchecked leaves this layer. */
import { LifeboatError } from '../core/errors.ts'
import { unhex } from '../core/ids.ts'

export const FORMAT = 1

export interface ClearDocument {
  text(name: string): string
  number(name: string): number
  date(name: string): Date
  /** Exactly `length` bytes (or within the range) written as hex. */
  bytes(name: string, length: number | readonly [min: number, max: number]): Uint8Array
  object(name: string): ClearDocument
  readonly members: Readonly<Record<string, unknown>>
}

/** Refuses what is too large, no JSON object, or of a newer format, in this order. */
export function parseDocument(bytes: Uint8Array, object: string, maxBytes: number): ClearDocument {
  if (bytes.length > maxBytes)
    throw new LifeboatError('absurd-object', `${object} has ${bytes.length} bytes; ${maxBytes} are allowed`, {
      details: { object },
      hint: 'The object is damaged, or this is no Lifeboat repository.',
    })
  const document = documentOf(parseJson(bytes, object), object)
  const format = document.number('format')
  if (format > FORMAT)
    throw new LifeboatError('newer-format', `${object} has format ${format}; this version reads format ${FORMAT}`, {
      details: { object, format },
      hint: 'Use a newer version of Lifeboat.',
    })
  if (format !== FORMAT) throw badDocument(object, `has the unknown format ${format}`)
  return document
}

export const badDocument = (object: string, what: string, cause?: unknown): LifeboatError =>
  new LifeboatError('corrupt-object', `${object} ${what}`, {
    details: { object },
    hint: `Restore ${object} from a copy of the repository; check that this is a Lifeboat repository at all.`,
    cause,
  })

function parseJson(bytes: Uint8Array, object: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw badDocument(object, 'is no JSON document', cause)
  }
}

function documentOf(value: unknown, object: string): ClearDocument {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw badDocument(object, 'is not a JSON object where one belongs')
  const members: Readonly<Record<string, unknown>> = { ...value }
  const text = (name: string): string => {
    const member = members[name]
    if (typeof member !== 'string') throw badDocument(object, `has no text '${name}'`)
    return member
  }
  return {
    members,
    text,
    number(name) {
      const member = members[name]
      if (typeof member !== 'number' || !Number.isSafeInteger(member) || member < 0)
        throw badDocument(object, `has no number '${name}'`)
      return member
    },
    date(name) {
      const date = new Date(text(name))
      if (Number.isNaN(date.getTime())) throw badDocument(object, `has no date '${name}'`)
      return date
    },
    bytes(name, length) {
      const [min, max] = typeof length === 'number' ? [length, length] : length
      const value = text(name)
      if (!/^(?:[0-9a-f]{2})*$/.test(value) || value.length < min * 2 || value.length > max * 2)
        throw badDocument(object, `has no proper '${name}'`)
      return unhex(value)
    },
    object: name => documentOf(members[name], object),
  }
}
